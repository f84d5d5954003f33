"""POST events to an HTTP endpoint."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.cloudevents import cloud_event
from polku.emit.encode import write_each
from polku.emit.http import open_session, pause_of, reach
from polku.emit.json_form import event_fields
from polku.emit.parts import LateError, RefusedPartError, TooLargeError, send_parts
from polku.errors import EmitError, MisconfiguredError, PlanError, RetryableError
from polku.security.client_tls import Certificate, ClientTls, Pem, check_client_tls
from polku.security.secret import Secret, reveal
from polku.security.signatures import Style, signature_headers
from polku.text import named

if TYPE_CHECKING:
    import aiohttp

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_ANSWER_BYTES = 16 * 1024
_READ_SECONDS = 1.0  # for what stands in an answer: its status has said what counts


class Body(StrEnum):
    """Say what is posted."""

    JSON = "json"
    """A JSON array of events, as the JsonIngestor reads it."""
    CLOUDEVENTS = "cloudevents"
    """A CloudEvents batch (CNCF CloudEvents 1.0, JSON batch format); the mapping is in `polku.emit.cloudevents`."""


_CONTENT_TYPE = {
    Body.JSON: "application/json",
    Body.CLOUDEVENTS: "application/cloudevents-batch+json; charset=UTF-8",
}


class WebhookStatistics(NamedTuple):
    """Count requests; `refused` had another answer than 2xx, `broken` had none."""

    requests: int
    refused: int
    broken: int


@dataclass(frozen=True, slots=True)
class WebhookEmitter:
    """POST batches of up to `max_events` events and `max_body_bytes` bytes; a 2xx answer confirms them.

    408, 425, 429, 5xx and broken connections are tried again, after `Retry-After` where the server names a time; 401,
    403, 404, 405, 407, 410, redirects and a certificate that cannot be trusted hold everything until somebody mends
    the address or the credentials; 413 is tried in halves. So is any other 4xx, such as 400 and 422, until the events
    at fault are known, which become dead letters; after 16 refused ones in a row a half that is refused does too. An
    event that is larger than `max_body_bytes` is posted alone, for the server to judge. One request may take `timeout`
    seconds. Messages name the server but not the rest of the URL, which is a secret with many services.

    `token` is sent as `Authorization: Bearer`. With a `secret` each body is signed, in the form of `signature`, as
    `HmacVerifier` checks it. URL, values of headers, token and secret may be a `Secret`. `https://` is checked against
    the system's or the given `root_certificates` (PEM: a path or bytes), and shows a `certificate` where the server
    asks for one; files that change count from the next connection on. Other machines are reached through a proxy where
    `HTTPS_PROXY` or `HTTP_PROXY` names one, and `NO_PROXY` excepts none of it; this machine always is directly.
    """

    url: str | Secret = field(repr=False)
    format: Body | str = field(default=Body.JSON, kw_only=True)
    name: str = field(default="webhook", kw_only=True)
    headers: Mapping[str, str | Secret] = field(default_factory=dict, kw_only=True, repr=False)
    timeout: float = field(default=10.0, kw_only=True)
    max_events: int = field(default=1_000, kw_only=True)
    max_body_bytes: int = field(default=1024 * 1024, kw_only=True)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)
    secret: str | Secret | None = field(default=None, kw_only=True, repr=False)
    signature: Style | str = field(default=Style.GITHUB, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        if not isinstance(self.url, Secret):
            _split_url(self.url)
        object.__setattr__(self, "format", checks.choice("WebhookEmitter", "format", self.format, Body))
        object.__setattr__(self, "headers", _checked_headers(self.headers))
        object.__setattr__(self, "signature", checks.choice("WebhookEmitter", "signature", self.signature, Style))
        roots = check_client_tls("WebhookEmitter", self.root_certificates, self.certificate)
        object.__setattr__(self, "root_certificates", roots)
        for option in ("token", "secret"):
            _check_secret(option, getattr(self, option))
        checks.positive("WebhookEmitter", "timeout", self.timeout)
        checks.whole("WebhookEmitter", "max_events", self.max_events)
        checks.whole("WebhookEmitter", "max_body_bytes", self.max_body_bytes)

    def build(self, clock: Clock) -> _Poster:
        """Make the running emitter."""
        return _Poster(self, clock)


class _Poster:
    def __init__(self, config: WebhookEmitter, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._form = cloud_event if config.format is Body.CLOUDEVENTS else event_fields
        self._tls = ClientTls(config.root_certificates, config.certificate)
        self._session: aiohttp.ClientSession | None = None
        self._requests = self._refused = self._broken = 0

    async def start(self) -> None:
        self._session = open_session(self._config.timeout)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Post the batch in as many requests as it needs."""
        import msgspec

        bodies = write_each(batch.events, lambda event: msgspec.json.encode(self._form(event)))
        ids = batch.ids
        records = [(where, ids[where], body) for where, body in zip(bodies.positions, bodies.contents, strict=True)]
        return bodies.failures + await send_parts(self._cut(records, batch.trace), self._post)

    def statistics(self) -> WebhookStatistics:
        return WebhookStatistics(self._requests, self._refused, self._broken)

    def _cut(self, records: list[_Record], trace: str) -> list[_Request]:
        requests: list[_Request] = []
        size = 0
        for record in records:
            size += len(record[2]) + 1
            too_much = size > self._config.max_body_bytes
            if not requests or too_much or len(requests[-1].records) == self._config.max_events:
                requests.append(_Request([], trace))
                size = len(record[2]) + 2
            requests[-1].records.append(record)
        return requests

    async def _post(self, request: _Request) -> list[Failure]:
        import aiohttp

        if self._session is None:
            raise RetryableError("the emitter is not started")
        url = reveal(self._config.url)
        server, options = reach(_split_url(url), self._tls)
        headers = self._headers(request) | options.pop("headers", {})
        self._requests += 1
        post = self._session.post
        try:
            async with post(url, data=request.body, headers=headers, allow_redirects=False, **options) as response:
                content = await _said(response)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
            self._broken += 1
            raise MisconfiguredError(f"{server}: {type(error).__name__}: {error}") from None
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            self._broken += 1
            if isinstance(error, TimeoutError):
                raise LateError(f"{server}: no answer within {self._config.timeout:g} s") from None
            raise RetryableError(f"{server}: {_why(error)}") from None
        if 200 <= response.status < 300:
            return []
        self._refused += 1
        text = content[:200].decode(errors="replace")
        reason = f"{server}: HTTP {response.status} {response.headers.get('Location', text)}".strip()
        raise _error(response.status, reason, pause_of(response.headers.get("Retry-After"), self._clock))

    def _headers(self, request: _Request) -> dict[str, str]:
        config = self._config
        headers = {"Content-Type": _CONTENT_TYPE[Body(config.format)]}
        if config.token is not None:
            headers["Authorization"] = f"Bearer {reveal(config.token)}"
        headers |= {name: reveal(value) for name, value in config.headers.items()}
        if config.secret is not None:
            now = self._clock.time_ns() // 1_000_000_000
            headers |= signature_headers(Style(config.signature), reveal(config.secret), request.body, now)
        if request.trace:
            headers["traceparent"] = request.trace
        return headers


_Record: TypeAlias = tuple[int, str, bytes]
"""An event's position in the batch, its id and its JSON."""


class _Request(NamedTuple):
    """Some events of a batch."""

    records: list[_Record]
    trace: str  # the `traceparent` of the attempt, empty where nothing is traced

    @property
    def ids(self) -> list[str]:
        return [event_id for _, event_id, _ in self.records]

    @property
    def positions(self) -> list[int]:
        return [position for position, _, _ in self.records]

    @property
    def body(self) -> bytes:
        return b"[" + b",".join([record for _, _, record in self.records]) + b"]"

    def halves(self) -> list[_Request]:
        middle = len(self.records) // 2
        return [_Request(self.records[:middle], self.trace), _Request(self.records[middle:], self.trace)]


async def _said(response: aiohttp.ClientResponse) -> bytes:
    """Read what stands in an answer, so that its connection is used again.

    What cannot be read, or does not end, changes nothing of what the status says.
    """
    import aiohttp

    with suppress(aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
        async with asyncio.timeout(_READ_SECONDS):
            return await response.content.read(_ANSWER_BYTES)
    return b""


def _why(error: Exception) -> str:
    """Return why nothing was sent; where there is no connection, in the words of the system alone."""
    import aiohttp

    if not isinstance(error, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"{type(error).__name__}: {error}"
    cause = error.os_error
    if isinstance(error, aiohttp.ClientSSLError) or cause.errno is None:
        return f"cannot connect: {named(cause)}"
    return f"cannot connect: {os.strerror(cause.errno) if cause.errno > 0 else cause.strerror}"


def _error(status: int, reason: str, retry_after: float | None) -> EmitError:
    if status in (408, 425, 429) or status >= 500:
        return RetryableError(reason, retry_after=retry_after)
    if status < 400 or status in (401, 403, 404, 405, 407, 410):
        return MisconfiguredError(reason)
    return TooLargeError(reason) if status == 413 else RefusedPartError(reason)


def _split_url(url: object) -> SplitResult:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # the port is no number, or brackets do not match
        pass
    raise checks.fault("WebhookEmitter", "url", url, "write http://host/path or https://host/path")


def _check_secret(option: str, value: object) -> None:
    if value is None or isinstance(value, Secret):
        return
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise PlanError(f"{option} must be printable ASCII, or a polku.Secret", where="WebhookEmitter")


def _checked_headers(headers: object) -> dict[str, str | Secret]:
    if not isinstance(headers, Mapping):
        raise PlanError("headers must be a mapping of names to values", where="WebhookEmitter")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise PlanError(f"headers: {name!r} is no HTTP header's name", where="WebhookEmitter")
        if isinstance(value, Secret):
            continue
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            reason = f"headers: the value of {name!r} must be a string without control characters"
            raise PlanError(reason, where="WebhookEmitter")
    return dict(headers)
