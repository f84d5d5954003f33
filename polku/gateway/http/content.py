"""What a request's body is, and how it becomes events.

| Content-Type | read as |
|---|---|
| `application/json` | an event, or an array of events (`JsonIngestor`) |
| `application/x-ndjson`, `application/jsonl` | an event a line (`JsonIngestor`) |
| `application/x-protobuf`, `application/protobuf` | a serialised `polku.v1.EventPayload` |
| `application/cloudevents+json`, `application/cloudevents-batch+json` | CloudEvents, structured and batched |
| any, with `ce-specversion` or other `ce-` headers | a CloudEvent in binary mode: the body is its data |

CloudEvents name their source themselves. Any other request may name one, as `?source=` or `X-Polku-Source`: if the
pipeline has an ingestor for that source, it reads the body, of whatever type; else the name is what events without a
source get. What is of another type goes to the default ingestor, if there is one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import InputError
from polku.gateway.admission import Admission, admit_events, admit_payload, read_payload
from polku.gateway.authorization import authorized
from polku.gateway.http.refusal import RequestError
from polku.gateway.intake import Intake
from polku.gateway.large import admit_frames, is_large

if TYPE_CHECKING:
    from polku.security.account import Account


class _Form(StrEnum):
    JSON = "json"
    NDJSON = "ndjson"
    PROTOBUF = "protobuf"
    CLOUDEVENTS = "cloudevents"


_FORMS = {
    "application/json": _Form.JSON,
    "application/x-ndjson": _Form.NDJSON,
    "application/ndjson": _Form.NDJSON,
    "application/jsonl": _Form.NDJSON,
    "application/x-protobuf": _Form.PROTOBUF,
    "application/protobuf": _Form.PROTOBUF,
    "application/cloudevents+json": _Form.CLOUDEVENTS,
    "application/cloudevents-batch+json": _Form.CLOUDEVENTS,
}
ACCEPTED = ", ".join(_FORMS)
_CHARSETS = {"", "utf-8", "utf8", "us-ascii"}

Admit = Callable[[bytes, "Account | None"], Awaitable[Admission]]


class Head(Struct, frozen=True):
    """What the head of a request says about its events; names of headers are in lower case."""

    headers: Mapping[str, str]
    source: str
    cluster: str
    path: str = ""
    query: str = ""


def verified_reader(head: Head, intake: Intake) -> Admit | None:
    """Return what reads the body of a source whose ingestor finds out itself who has sent it; None for others.

    It reads the body whatever its type is: nothing gets in by another way that is not asked for a token.
    """
    if head.source and intake.ingestors.verifies(head.source):
        return _raw(head, intake, _media_type(head.headers.get("content-type", ""))[0], head.source)
    return None


def reader_of(head: Head, intake: Intake) -> Admit:
    """Return what reads the body; raises `RequestError` 415 where nothing does."""
    media_type, charset = _media_type(head.headers.get("content-type", ""))
    form = _FORMS.get(media_type)
    if form is not _Form.CLOUDEVENTS and _is_binary(head.headers):
        return _binary(head, intake)
    if form is not None and charset not in _CHARSETS:
        raise _unsupported(f"charset={charset!r}: is not supported; send UTF-8")
    if form is _Form.CLOUDEVENTS:
        return _raw(head, intake, form, "cloudevents")
    if head.source and intake.ingestors.serves(head.source):
        return _raw(head, intake, form or media_type, head.source)
    if form is _Form.PROTOBUF:
        return _protobuf(head, intake)
    if form is not None:
        return _raw(head, intake, form, form)
    if intake.ingestors.has_default:
        return _raw(head, intake, media_type, head.source)
    if any(name.startswith("ce-") for name in head.headers):
        return _binary(head, intake)  # it says which header is missing
    raise _not_read(media_type, head.source)


def _is_binary(headers: Mapping[str, str]) -> bool:
    """Return whether headers are those of a CloudEvent: one without its version is told that this is missing."""
    return "ce-specversion" in headers or all(name in headers for name in ("ce-id", "ce-source", "ce-type"))


class RawReader(Struct, frozen=True):
    """Let the ingestor of a source read a body."""

    intake: Intake
    context: IngestContext
    source: str

    async def __call__(self, body: bytes, account: Account | None) -> Admission:
        """Return what is admitted; raises `InputError`."""
        return await self.intake.admit_raw(body, self.context, self.source, account, in_turns=True)


def _raw(head: Head, intake: Intake, form: str, reader: str) -> RawReader:
    headers = dict(head.headers)  # an ingestor may change its own
    context = IngestContext(head.source, head.cluster, str(form), headers, head.path, head.query)
    return RawReader(intake, context, reader)


def _protobuf(head: Head, intake: Intake) -> Admit:
    async def admit(body: bytes, account: Account | None) -> Admission:
        frames = read_payload(body, intake.limits)
        if is_large(len(frames), len(body)):
            return await admit_frames(frames, head.source, head.cluster, intake.limits, account)
        admission = admit_payload(body, head.source, head.cluster, intake.limits, frames)
        return admission if account is None else authorized(admission, account, body)

    return admit


def _binary(head: Head, intake: Intake) -> Admit:
    from polku.ingest.cloudevents_reading import event_from_headers
    from polku.ingest.json_fields import FieldError

    async def admit(body: bytes, account: Account | None) -> Admission:
        try:
            event = event_from_headers(head.headers, body)
        except FieldError as error:
            raise InputError(Code.INVALID_RECORD, str(error)) from None
        admission = admit_events([event], head.source, head.cluster, intake.limits)
        return admission if account is None else authorized(admission, account)

    return admit


@lru_cache(256)
def _media_type(header: str) -> tuple[str, str]:
    from email.message import Message  # by the first request: a gateway is ready sooner

    message = Message()
    message["Content-Type"] = header
    charset = message.get_param("charset", "")
    return (message.get_content_type() if header else ""), (charset.lower() if isinstance(charset, str) else "?")


def _not_read(media_type: str, source: str) -> RequestError:
    named = f"Content-Type={media_type!r}: is not supported" if media_type else "Content-Type: there is none"
    unserved = f", and no ingestor serves source={source[:100]!r}" if source else ""
    return _unsupported(f"{named}{unserved}; send one of {ACCEPTED}, or name a source that has an ingestor (?source=)")


def _unsupported(message: str) -> RequestError:
    return RequestError(415, Code.UNSUPPORTED, message, {"Accept-Post": ACCEPTED})
