"""Append events to Redis Streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.encode import cause_trace, note_unwritable, unwritable
from polku.emit.fields import Fields, Value, writer
from polku.errors import MisconfiguredError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.kafka.template import AbsentError, Maker, compile_template, is_constant
from polku.redis.client import Kind, check_server, explain, kind_of, load, open_client, server_of, tls_of
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret
from polku.text import named
from polku.tracing.context import KEY, with_traceparent

_ID = re.compile(rb"[0-9]+-[0-9]+")


@dataclass(frozen=True, slots=True)
class RedisStreamsEmitter:
    """Append each event to a stream; the id of its entry confirms it.

    `stream` is a template (`"events.{source}"`, `"{metadata[tenant]}"`) or a function of the event. `value` is
    `protobuf`, `json`, `raw` or `cloudevents`, as the table in `polku.emit.fields` says; `headers` names the metadata
    that become fields besides `id`, `type` and `source`. With `max_len` a stream keeps about that many entries, the
    latest. With `replicas` a batch is confirmed when that many replicas have it too.

    A server that cannot be reached, has no memory left or is no master is tried again; refused credentials and a key
    that has something else hold everything, with an alarm, until that is fixed. Where the event chose the stream, such
    a key makes a dead letter, as does a field that the template needs and the event lacks. A batch that broke off is
    appended again: what was there already is there twice, with the same field `id`. `url`, and the `password` if it is
    not in there, may be a `Secret`; `rediss://` is checked against the system's or the given
    `root_certificates`, and shows the `certificate`; files are read again when they change.
    """

    stream: str | Callable[[Event], str]
    url: str | Secret = field(default="redis://localhost:6379", kw_only=True, repr=False)
    value: Value | str = field(default=Value.PROTOBUF, kw_only=True)
    headers: Sequence[str] = field(default=("traceparent",), kw_only=True)
    max_len: int | None = field(default=None, kw_only=True)
    replicas: int = field(default=0, kw_only=True)
    name: str = field(default="redis", kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    max_events: int = field(default=1_000, kw_only=True)
    password: str | Secret | None = field(default=None, kw_only=True, repr=False)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        check_server("RedisStreamsEmitter", self)
        object.__setattr__(self, "value", checks.choice("RedisStreamsEmitter", "value", self.value, Value))
        if isinstance(self.headers, str) or not all(isinstance(name, str) and name for name in self.headers):
            raise checks.fault("RedisStreamsEmitter", "headers", self.headers, "must be a list of metadata keys")
        object.__setattr__(self, "headers", tuple(self.headers))
        if self.max_len is not None:
            checks.whole("RedisStreamsEmitter", "max_len", self.max_len)
        if not isinstance(self.replicas, int) or isinstance(self.replicas, bool) or self.replicas < 0:
            raise checks.fault("RedisStreamsEmitter", "replicas", self.replicas, "must be a whole number, 0 or more")
        checks.positive("RedisStreamsEmitter", "timeout", self.timeout)
        checks.whole("RedisStreamsEmitter", "max_events", self.max_events)
        self.stream_of()

    def stream_of(self) -> Maker:
        """Return the function that gives an event's stream."""
        if isinstance(self.stream, str) and self.stream:
            return compile_template("RedisStreamsEmitter", "stream", self.stream)
        if isinstance(self.stream, str):
            raise checks.fault("RedisStreamsEmitter", "stream", self.stream, "must be a name or a template")
        checks.function("RedisStreamsEmitter", "stream", self.stream, sync=True)
        return self.stream

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("RedisStreamsEmitter")

    def build(self, clock: Clock) -> _Appender:
        """Make the running emitter; raises `PlanError` where the client is not installed."""
        load("RedisStreamsEmitter")
        return _Appender(self)


class _Entry(NamedTuple):
    position: int
    event_id: str
    stream: str
    fields: Fields


class _Appender:
    def __init__(self, config: RedisStreamsEmitter) -> None:
        self._config = config
        self._server = server_of(config.url)
        self._tls = tls_of(config)
        self._stream = config.stream_of()
        self._is_fixed = is_constant(config.stream)
        self._write = writer(Value(config.value), config.headers)
        self._client: Any = None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Append the batch, in as many pipelines as it needs; what comes behind one that fails is not sent."""
        if KEY in self._config.headers:
            batch = with_traceparent(batch)
        entries, failures = self._entries(batch.events)
        for start in range(0, len(entries), self._config.max_events):
            left = entries[start:]
            outcome = await self._append(left[: self._config.max_events], start == 0 and not failures)
            failures += outcome
            if any(failure.retryable for failure in outcome):
                reason = "what was before it was not taken"
                rest = left[self._config.max_events :]
                return failures + [Failure(one.event_id, reason, position=one.position) for one in rest]
        return failures

    def _entries(self, events: Sequence[Event]) -> tuple[list[_Entry], list[Failure]]:
        entries: list[_Entry] = []
        failures: list[Failure] = []
        for position, event in enumerate(events):
            try:
                entries.append(_Entry(position, event.id, self._name(event), self._write(event)))
            except _UnfitError as error:
                failures.append(Failure(event.id, str(error), False, position=position, detail=cause_trace(error)))
            except Exception as error:
                failures.append(unwritable(event.id, position, error))
        note_unwritable(failures)
        return entries, failures

    def _name(self, event: Event) -> str:
        try:
            name = self._stream(event)
        except AbsentError as error:
            raise _UnfitError(str(error)) from None
        except MemoryError:
            raise
        except BaseException as error:  # a user's function may raise anything
            raise _UnfitError(f"stream: the function raised {named(error)}") from error
        if not isinstance(name, str) or not name:
            raise _UnfitError(f"stream={checks.shorten(name)}: the function must return a name")
        return name

    async def _append(self, entries: Sequence[_Entry], is_first: bool) -> list[Failure]:
        try:
            results = await self._run(entries)
        except MisconfiguredError:
            raise
        except Exception as error:
            if not _is_clients(error):
                raise
            raise await self._error(error) from None
        failures: list[Failure] = []
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, BaseException):
                if kind_of(result) is Kind.ACCESS or (kind_of(result) is Kind.STREAM and self._is_fixed):
                    raise await self._error(result)
                reason = f"{self._server}: stream {entry.stream}: {explain(result)}"
                retryable = kind_of(result) is Kind.RETRY
                failures.append(Failure(entry.event_id, reason, retryable, position=entry.position))
            elif not _is_id(result):
                reason = f"{self._server}: stream {entry.stream}: {checks.shorten(result)} is no id of an entry"
                failures.append(Failure(entry.event_id, reason, position=entry.position))
        return failures

    async def _run(self, entries: Sequence[_Entry]) -> list[Any]:
        config = self._config
        if self._client is None:
            self._client = open_client("RedisStreamsEmitter", config, self._tls, timeout=config.timeout)
        async with asyncio.timeout(config.timeout + 1.0):  # the client has its own for each answer
            pipeline = self._client.pipeline(transaction=False)
            for entry in entries:
                pipeline.xadd(entry.stream, entry.fields, maxlen=config.max_len)
            if config.replicas:
                pipeline.wait(config.replicas, max(1, int(config.timeout * 500)))
            try:
                results: list[Any] = await pipeline.execute(raise_on_error=False)
            except (ValueError, TypeError, IndexError) as error:  # its parser's
                raise RetryableError(f"{self._server}: what answers does not speak Redis ({named(error)})") from None
        if config.replicas:
            reached = results.pop()
            if isinstance(reached, BaseException):
                raise reached
            if reached < config.replicas:
                raise RetryableError(f"{self._server}: {reached} of {config.replicas} replicas have the entries")
        return results

    async def _error(self, error: BaseException) -> Exception:
        reason = f"{self._server}: {explain(error)}"
        if kind_of(error) is Kind.RETRY:
            return RetryableError(reason)
        await self.close()  # the next client reads the secrets again
        return MisconfiguredError(reason)


class _UnfitError(Exception):
    """Say why an event cannot become an entry."""


def _is_id(result: Any) -> bool:
    """Return whether an answer to XADD says where the entry is: something in between may answer otherwise."""
    return (
        isinstance(result, (bytes, str))
        and _ID.fullmatch(result if isinstance(result, bytes) else result.encode()) is not None
    )


def _is_clients(error: Exception) -> bool:
    from redis.exceptions import RedisError

    return isinstance(error, (RedisError, OSError))
