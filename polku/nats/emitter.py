"""Publish events to NATS JetStream."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.encode import cause_trace, note_unwritable, unwritable
from polku.emit.fields import DATA, Value, writer
from polku.errors import MisconfiguredError, PlanError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.kafka.template import AbsentError, Maker, compile_template, is_constant
from polku.nats.client import Kind, NatsConnection, check_server, connect, explain, kind_of, load, server_of, tls_of
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret
from polku.text import named
from polku.tracing.context import KEY, with_traceparent

_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
_PLAIN = re.compile(r"[!-~]([ -~]*[!-~])?")
MESSAGE_ID = "Nats-Msg-Id"
"""The header that the server tells repetitions by."""


@dataclass(frozen=True, slots=True)
class NatsEmitter:
    """Publish each event to a stream of JetStream; the server's acknowledgement confirms it.

    `subject` is a template (`"events.{source}"`, `"{metadata[tenant]}"`) or a function of the event. The event's id is
    the message's (`Nats-Msg-Id`), so that what is sent again within the stream's duplicate window is stored once.
    `value` is `protobuf`, `json`, `raw` or `cloudevents`, as the table in `polku.emit.fields` says of `data`; id, type,
    source and the metadata in `headers` are headers. With `stream` the server refuses what another stream would take.

    A server that cannot be reached, or has no room, is tried again. Refused credentials, no JetStream, and a subject of
    yours that no stream takes hold everything, with an alarm, until that is fixed; where the event chose the subject,
    it is a dead letter, as is an event that is too large. URLs, `user`, `password` and `token` may be a `Secret`;
    `credentials` is a file of them, and `tls://` is checked against the system's or the given `root_certificates`,
    and shows the `certificate`; files are read again when they change.
    """

    subject: str | Callable[[Event], str]
    servers: str | Secret | Sequence[str | Secret] = field(default="nats://localhost:4222", kw_only=True, repr=False)
    value: Value | str = field(default=Value.PROTOBUF, kw_only=True)
    headers: Sequence[str] = field(default=("traceparent",), kw_only=True)
    stream: str | None = field(default=None, kw_only=True)
    name: str = field(default="nats", kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    user: str | Secret | None = field(default=None, kw_only=True, repr=False)
    password: str | Secret | None = field(default=None, kw_only=True, repr=False)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)
    credentials: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        check_server("NatsEmitter", self)
        object.__setattr__(self, "value", checks.choice("NatsEmitter", "value", self.value, Value))
        if isinstance(self.headers, str) or not all(isinstance(one, str) and _is_header(one) for one in self.headers):
            raise checks.fault("NatsEmitter", "headers", self.headers, "must be a list of metadata keys")
        object.__setattr__(self, "headers", tuple(self.headers))
        if self.stream is not None and (not isinstance(self.stream, str) or not _PLAIN.fullmatch(self.stream)):
            raise checks.fault("NatsEmitter", "stream", self.stream, "must be the name of a stream")
        checks.positive("NatsEmitter", "timeout", self.timeout)
        subject = self.subject_of()
        if is_constant(self.subject) and not _SUBJECT.fullmatch(subject(Event())):
            raise checks.fault("NatsEmitter", "subject", self.subject, _SUBJECT_FIX)

    def subject_of(self) -> Maker:
        """Return the function that gives an event's subject."""
        if isinstance(self.subject, str):
            return compile_template("NatsEmitter", "subject", self.subject)
        checks.function("NatsEmitter", "subject", self.subject, sync=True)
        return self.subject

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("NatsEmitter")

    def build(self, clock: Clock) -> _Publisher:
        """Make the running emitter; raises `PlanError` where the client is not installed."""
        load("NatsEmitter")
        return _Publisher(self)


_SUBJECT_FIX = "must be words with dots between them, without blanks and wildcards"


class _Message(NamedTuple):
    position: int
    event_id: str
    subject: str
    headers: dict[str, str]
    data: bytes


class _Publisher:
    def __init__(self, config: NatsEmitter) -> None:
        self._config = config
        self._server = server_of(config)
        self._tls = tls_of(config)
        self._subject = config.subject_of()
        self._is_fixed = is_constant(config.subject)
        self._write = writer(Value(config.value), config.headers)
        self._connection: NatsConnection | None = None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Publish the batch, and wait for the answer to each message."""
        if KEY in self._config.headers:
            batch = with_traceparent(batch)
        messages, failures = self._messages(batch.events)
        if self._connection is None or not self._connection.is_open:
            await self.close()
            self._connection = await connect("NatsEmitter", self._config, self._tls)
        outcome = await self._publish(self._connection, messages)
        faults: dict[str, Failure | None] = {}
        for message, error in outcome:
            if error is not None:
                failures.append(await self._failure(message, error, faults))
        return failures

    def _messages(self, events: Sequence[Event]) -> tuple[list[_Message], list[Failure]]:
        messages: list[_Message] = []
        failures: list[Failure] = []
        for position, event in enumerate(events):
            try:
                messages.append(self._message(position, event))
            except _UnfitError as error:
                failures.append(Failure(event.id, str(error), False, position=position, detail=cause_trace(error)))
            except Exception as error:
                failures.append(unwritable(event.id, position, error))
        note_unwritable(failures)
        return messages, failures

    def _message(self, position: int, event: Event) -> _Message:
        subject = self._name(event)
        fields = self._write(event)
        data = fields.pop(DATA)
        headers = {name: _header(str(value)) for name, value in fields.items() if value}
        headers[MESSAGE_ID] = _id(event.id)
        if self._config.stream is not None:
            headers["Nats-Expected-Stream"] = self._config.stream
        return _Message(position, event.id, subject, headers, data if isinstance(data, bytes) else data.encode())

    def _name(self, event: Event) -> str:
        try:
            subject = self._subject(event)
        except AbsentError as error:
            raise _UnfitError(str(error)) from None
        except MemoryError:
            raise
        except BaseException as error:  # a user's function may raise anything
            raise _UnfitError(f"subject: the function raised {named(error)}") from error
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise _UnfitError(f"subject={checks.shorten(subject)}: {_SUBJECT_FIX}")
        return subject

    async def _publish(self, connection: NatsConnection, messages: Sequence[_Message]) -> list[tuple[_Message, Any]]:
        """Return each message with what its answer was: None where it is stored, else an error."""
        sent: list[tuple[_Message, asyncio.Future[Any] | Exception]] = []
        late: Exception = RetryableError(f"{self._server}: no answer within {self._config.timeout:g} s")
        try:
            async with asyncio.timeout(self._config.timeout):
                for message in messages:
                    sent.append((message, await self._send(connection, message)))
                await self._wait(connection, [answer for _, answer in sent if isinstance(answer, asyncio.Future)])
        except Exception as error:
            late = late if isinstance(error, TimeoutError) else RetryableError(f"{self._server}: {explain(error)}")
        answers: list[Any] = [answer for _, answer in sent] + [late] * (len(messages) - len(sent))
        outcome = [(message, _outcome(answer, late)) for message, answer in zip(messages, answers, strict=True)]
        if any(error is late for _, error in outcome):  # nothing that still comes on it is heard
            await self.close()
        return outcome

    async def _send(self, connection: NatsConnection, message: _Message) -> asyncio.Future[Any] | Exception:
        try:
            return await connection.publish(message.subject, message.data, message.headers)
        except Exception as error:
            if kind_of(error) is not Kind.RECORD:
                raise
            return error

    async def _wait(self, connection: NatsConnection, answers: Sequence[asyncio.Future[Any]]) -> None:
        if not answers:
            return
        everything: asyncio.Future[Any] = asyncio.ensure_future(asyncio.wait(answers))
        closed: asyncio.Future[Any] = connection.closed
        try:
            await asyncio.wait([everything, closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            everything.cancel()
        if connection.closed.done():
            raise ConnectionError("the connection was closed")

    async def _failure(self, message: _Message, error: Any, faults: dict[str, Failure | None]) -> Failure:
        kind = kind_of(error)
        reason = error.args[0] if isinstance(error, RetryableError) else f"{self._server}: {explain(error)}"
        if kind is Kind.SUBJECT:
            reason = f"{self._server}: no stream takes subject {message.subject!r}; make one that does"
            if not self._is_fixed and not await self._may_come(message.subject):
                kind = Kind.RECORD
            elif self._is_fixed:
                kind = Kind.ACCESS
        if kind is Kind.ACCESS:
            raise MisconfiguredError(reason)
        return Failure(message.event_id, reason, kind is not Kind.RECORD, position=message.position)

    async def _may_come(self, subject: str) -> bool:
        """Return whether a stream takes a subject after all, or none can say so: one may look for its leader."""
        from nats.js.errors import NotFoundError

        if self._connection is None:
            return True
        try:
            await self._connection.streams.find_stream_name_by_subject(subject)
        except NotFoundError:
            return False
        except Exception as error:
            if isinstance(error, PlanError):
                raise
            return True
        return True


class _UnfitError(Exception):
    """Say why an event cannot become a message."""


def _outcome(answer: Any, late: Exception) -> Any:
    """Return None for an answer that confirms, or the error."""
    if not isinstance(answer, asyncio.Future):
        return answer
    if not answer.done() or answer.cancelled():
        return late
    return answer.exception()


def _is_header(name: str) -> bool:
    return bool(re.fullmatch(r"[!-9;-~]+", name))


def _header(value: str) -> str:
    """Return a text as a header can hold it: without line breaks and what is no ASCII."""
    return value if _PLAIN.fullmatch(value) else value.encode("ascii", "backslashreplace").decode().translate(_CONTROL)


def _id(event_id: str) -> str:
    """Return an event's id as a header: one that a header cannot hold becomes its digest."""
    if _PLAIN.fullmatch(event_id):
        return event_id
    return f"~{hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()}"


_CONTROL = dict.fromkeys((*range(32), 127), " ")
