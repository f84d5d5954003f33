"""Deliver events to Kafka topics; an event is confirmed by its delivery report and by nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.progress import Progress, current
from polku.errors import MisconfiguredError, PlanError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.kafka.client import (
    Alarm,
    Kind,
    UnfitError,
    checked_config,
    explain,
    is_too_large,
    kind_of,
    load,
    may_be_shared,
)
from polku.kafka.fields import TOPIC
from polku.kafka.making import BatchReader
from polku.kafka.producer import Left, Producer, Sending
from polku.kafka.record import Record, RecordMaker, Stamp, Value, check_partition, check_topic
from polku.kafka.template import Maker, compile_template, is_constant
from polku.kafka.tls import KafkaTls, check_tls
from polku.security.client_tls import Certificate, Pem
from polku.tracing.context import KEY, with_traceparent

_OURS = ("acks", "request.required.acks", "enable.idempotence", "transactional.id", "enable.gapless.guarantee")
_OURS_TOO = ("message.timeout.ms", "delivery.timeout.ms", "delivery.report.only.error", "dr_cb", "dr_msg_cb")
_SETTINGS = {
    "acks": "all",
    "enable.idempotence": True,
    "message.timeout.ms": 0,
    "delivery.report.only.error": True,
}
_DEFAULTS = {
    "client.id": "polku",
    "linger.ms": 1,
    "queue.buffering.max.kbytes": 64 * 1024,
    "topic.metadata.propagation.max.ms": 5_000,
}
_HEADERS = ("traceparent",)
_GRACE = 1.0  # seconds in which another broker may take what one does not let us send
_PURGE_SECONDS = 5.0
_ABSENT_SECONDS = 30.0  # how long a topic that was not there counts as absent
_ABSENT_TOPICS = 1_000


class KafkaStatistics(NamedTuple):
    """Count records and producers; `queued` are in the client's queue, `alarm` says why no broker can be reached."""

    records: int
    confirmed: int
    failed: int
    queued: int
    producers: int
    alarm: str


@dataclass(frozen=True, slots=True)
class KafkaEmitter:
    """Send each event as a record, with an idempotent producer and `acks=all`.

    `topic` and `key` are templates (`"events.{source}"`, `"{metadata[tenant]}"`) or functions of the event; a key may
    also be bytes, or None. Without `key` a record gets the key that its event came with (`polku.kafka.fields`), if any.
    `value` is `protobuf`, `json`, `raw`, `cloudevents`, `cloudevents-binary` or `record`, as the table
    in `polku.kafka.record` says; `headers` names the metadata that goes into headers besides id, type and source.
    `partition` is a number, a template, or a function of the event that returns a number, or None for the partition
    that the key gives; `timestamp` is `sent`, or `event` for the event's own time. With `value="record"` an event that
    was a record becomes the same record: its value, key, headers and timestamp, in the partition of the same number.
    `config` are properties of librdkafka (`sasl.password`, `compression.type`, …). With `root_certificates` or a
    `certificate` connections are encrypted; where their files change, a new producer sends what comes then.

    What the brokers do not confirm within `timeout` seconds is taken back and sent again by the resilience around
    this, in order. An event that cannot become a record (no legal topic, a field missing, too large) is a dead letter.
    So is one whose topic does not exist or is not allowed, where the event chose the topic; where you did, everything
    is held, with an alarm, until the topic can be written. A partition keeps the order of the events, except where a
    broker refuses one record (too large for the topic, no key on a compacted one) and with it those that were sent
    together: they are sent again in halves, until those are found that are refused alone.
    """

    topic: str | Callable[[Event], str]
    key: str | Callable[[Event], str | bytes | None] | None = field(default=None, kw_only=True)
    bootstrap_servers: str = field(default="", kw_only=True)
    value: Value | str = field(default=Value.PROTOBUF, kw_only=True)
    headers: Sequence[str] = field(default=_HEADERS, kw_only=True)
    partition: int | str | Callable[[Event], int | None] | None = field(default=None, kw_only=True)
    timestamp: Stamp | str = field(default=Stamp.SENT, kw_only=True)
    name: str = field(default="kafka", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    config: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", checks.choice("KafkaEmitter", "value", self.value, Value))
        if isinstance(self.headers, str) or not all(isinstance(name, str) and name for name in self.headers):
            raise checks.fault("KafkaEmitter", "headers", self.headers, "must be a list of metadata keys")
        object.__setattr__(self, "headers", tuple(self.headers))
        if self.value is Value.RECORD and self.headers != _HEADERS:
            fix = "cannot be chosen with value='record': leave it out"
            raise checks.fault("KafkaEmitter", "headers", self.headers, fix)
        object.__setattr__(self, "timestamp", checks.choice("KafkaEmitter", "timestamp", self.timestamp, Stamp))
        checks.positive("KafkaEmitter", "timeout", self.timeout)
        object.__setattr__(self, "config", dict(self.config) if isinstance(self.config, Mapping) else self.config)
        self._maker()
        self.settings()
        check_tls("KafkaEmitter", self)

    def settings(self) -> dict[str, Any]:
        """Return all properties of the client."""
        chosen = checked_config("KafkaEmitter", self.bootstrap_servers, self.config, (*_OURS, *_OURS_TOO))
        return {**_DEFAULTS, **chosen, **_SETTINGS}

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("KafkaEmitter")

    def build(self, clock: Clock) -> _Sender:
        """Make the running emitter; raises `PlanError` where the client is not installed."""
        load("KafkaEmitter")
        return _Sender(self, self._maker(), clock)

    def _maker(self) -> RecordMaker:
        topic = _compile("topic", self.topic)
        if is_constant(self.topic):
            try:
                check_topic(topic(Event()))
            except UnfitError as error:
                raise PlanError(str(error), where="KafkaEmitter") from None
        key = None if self.key is None else _compile("key", self.key)
        fixed = topic(Event()) if is_constant(self.topic) else ""
        options: dict[str, Any] = {"partition": _partition(self.partition), "stamp": Stamp(self.timestamp)}
        return RecordMaker(topic, key, Value(self.value), self.headers, fixed=fixed, **options)


def _partition(value: object) -> Maker | None:
    if value is None or isinstance(value, str) or callable(value):
        return None if value is None else _compile("partition", value)
    try:
        number = check_partition(value)
    except UnfitError as error:
        raise PlanError(str(error), where="KafkaEmitter") from None
    return lambda event: number


def _compile(option: str, value: object) -> Maker:
    if isinstance(value, str):
        return compile_template("KafkaEmitter", option, value)
    if not callable(value):
        raise checks.fault("KafkaEmitter", option, value, "must be a template or a function of the event")
    checks.function("KafkaEmitter", option, value, sync=True)
    return value


def _mirrored_topic(config: KafkaEmitter) -> str | None:
    """Return the topic of records, empty for their own; None where they are not sent as the records that they were."""
    own_topic = config.topic == f"{{metadata[{TOPIC}]}}"
    if config.value is not Value.RECORD or config.key is not None or config.partition is not None:
        return None
    if not (own_topic or is_constant(config.topic)):
        return None
    return "" if own_topic else str(_compile("topic", config.topic)(Event()))


class _Sender:
    def __init__(self, config: KafkaEmitter, maker: RecordMaker, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._fixed_topic = is_constant(config.topic)
        self._batches = BatchReader(maker, _mirrored_topic(config))
        self._tls = KafkaTls(config)
        self._producer: Producer | None = None
        self._started = False
        self._sending: Sending | None = None
        self._absent: dict[str, tuple[float, str]] = {}
        self._records = self._confirmed = self._failed = self._producers = 0
        self._alarm = Alarm("KafkaEmitter")
        self._denied = ""

    async def start(self) -> None:
        self._started = True
        with contextlib.suppress(RetryableError):  # `emit` says it again
            self._open()

    async def close(self) -> None:
        self._started = False
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Send the batch; return the failures when each event has its report; raises `MisconfiguredError`."""
        failures: list[Failure] = []
        if KEY in self._config.headers and self._config.value is not Value.RECORD:  # a mirror adds nothing
            batch = with_traceparent(batch)
        outcome = await self._send(self._batches.read(batch, failures, self._absence if self._absent else None))
        suspects = [record for record, error in outcome if may_be_shared(error)]
        if suspects and len(batch) - len(failures) > 1:
            outcome = [left for left in outcome if not may_be_shared(left.error)] + await self._send_apart(suspects)
        self._failed += len(failures) + len(outcome)
        return failures + self._judge(outcome, len(batch))

    def statistics(self) -> KafkaStatistics:
        queued = len(self._producer) if self._producer is not None else 0
        return KafkaStatistics(self._records, self._confirmed, self._failed, queued, self._producers, self._alarm.text)

    def _open(self) -> Producer:
        if not self._started:
            raise RetryableError("the emitter is not started")
        if self._producer is None:
            try:
                settings = {**self._config.settings(), **self._tls.settings()}
            except ConnectionError as error:
                raise RetryableError(str(error)) from None
            self._producer = Producer("KafkaEmitter", settings, self._heard, self._well)
            self._producers += 1
        return self._producer

    async def _renew(self) -> None:
        """Begin again with a new producer: a fatal error, or what was taken back, ended the life of the old one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close()

    async def _send_apart(self, records: list[Record]) -> list[Left]:
        """Send records again that were refused together, in halves, until those that are refused themselves are alone.

        Where brokers do not answer, the rest is left for later, so that it stays in order.
        """
        if len(records) == 1:
            return await self._send(iter([records]), is_part=True)
        middle = len(records) // 2
        left: list[Left] = []
        for half in (records[:middle], records[middle:]):
            if any(error is None or kind_of(error) is not Kind.RECORD for _, error in left):
                left += [Left(record, None) for record in half]
                continue
            outcome = await self._send(iter([half]), is_part=True)
            suspects = [record for record, error in outcome if may_be_shared(error)] if len(half) > 1 else []
            if suspects:
                outcome = [each for each in outcome if not may_be_shared(each.error)] + await self._send_apart(suspects)
            left += outcome
        return left

    async def _send(self, chunks: Iterator[Sequence[Record]], *, is_part: bool = False) -> list[Left]:
        """Send records and return those that were not taken, in order.

        Some are made while the client sends those before them.
        """
        first = next(chunks, None)
        if first is None:
            return []
        if self._producer is not None and (self._producer.broken or self._tls.has_changed()):
            await self._renew()
        producer = self._open()
        sending = self._sending = producer.begin()
        progress = current()
        progress.step(self._config.timeout + _PURGE_SECONDS)
        made: list[Sequence[Record]] = []
        try:
            async with asyncio.timeout(self._config.timeout):
                await self._hand_in(producer, sending, chain((first,), chunks), made)
                await sending.wait()
        except TimeoutError:
            producer.purge()
            made += chunks
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sending.wait(), _PURGE_SECONDS)
        except BaseException:
            producer.purge()
            raise
        finally:
            self._sending = None
            self._account(sending, made, progress, is_part=is_part)
        if sending.confirmed:
            self._well()
        return sending.left(list(chain(*made))) if sending.confirmed < sum(map(len, made)) else []

    def _account(self, sending: Sending, made: list[Sequence[Record]], progress: Progress, *, is_part: bool) -> None:
        count = sum(map(len, made))
        self._records += count
        self._confirmed += sending.confirmed
        if is_part or sending.confirmed < count:
            progress.settle([record.position for record in sending.taken(list(chain(*made)))])

    async def _hand_in(
        self,
        producer: Producer,
        sending: Sending,
        chunks: Iterable[Sequence[Record]],
        made: list[Sequence[Record]],
    ) -> None:
        """Hand records in, and note those that were made."""
        for chunk in chunks:
            made.append(chunk)
            while chunk:
                taken = producer.hand_in(sending, chunk)
                chunk = chunk[taken:]
                if chunk:  # the queue is full until reports make room
                    sending.news.clear()
                    producer.handed_in()
                    await sending.news.wait()
                else:
                    await asyncio.sleep(0)
        sending.is_all_in = True
        producer.handed_in()

    def _judge(self, outcome: list[Left], total: int) -> list[Failure]:
        failures: list[Failure] = []
        held = 0
        for record, error in outcome:
            kind = Kind.ACCESS if error is None and self._denied else Kind.RETRY if error is None else kind_of(error)
            if kind is Kind.TOPIC:
                kind = Kind.ACCESS if self._fixed_topic else Kind.RECORD
                self._remember_absence(record.topic, error)
            held += kind is Kind.ACCESS
            retryable = kind is not Kind.RECORD
            failures.append(Failure(record.event_id, self._reason(record, error), retryable, position=record.position))
        if held and self._producer is not None:
            self._producer.broken = True  # a client keeps such an answer in mind, for minutes
        if held and held == total:
            raise MisconfiguredError(failures[0].reason)
        return failures

    def _reason(self, record: Record, error: Any) -> str:
        if error is None:
            fault = self._producer.fault if self._producer is not None else ""
            return self._denied or fault or self._alarm.text or f"no confirmation within {self._config.timeout:g} s"
        if isinstance(error, UnfitError):
            return str(error)
        size = f" ({len(record.value or b'')} bytes; key {len(record.key or b'')})" if is_too_large(error) else ""
        return f"topic {record.topic}: {explain(error)}{size}"

    def _absence(self, topic: str) -> str:
        """Say why a topic counts as absent: looking for it again would hold up everything else."""
        until, reason = self._absent.get(topic, (0.0, ""))
        return reason if until > self._clock.monotonic() else ""

    def _remember_absence(self, topic: str, error: Any) -> None:
        if not self._fixed_topic:
            if len(self._absent) >= _ABSENT_TOPICS:
                self._absent.pop(next(iter(self._absent)))
            reason = f"topic {topic}: {explain(error)}; create it, or let the event name another"
            self._absent[topic] = (self._clock.monotonic() + _ABSENT_SECONDS, reason)

    def _heard(self, error: Any) -> None:
        """Take what the client says about its connections."""
        self._alarm.hear(error)
        sending = self._sending
        if sending is not None and kind_of(error) is Kind.ACCESS:
            loop = asyncio.get_running_loop()
            loop.call_later(_GRACE, self._deny, sending, self._reported(sending), explain(error))

    def _deny(self, sending: Sending, reported: int, reason: str) -> None:
        if sending is self._sending and self._reported(sending) == reported and self._producer is not None:
            self._denied = reason
            self._producer.purge()

    def _reported(self, sending: Sending) -> int:
        """Return how many of the records are in the client's queue no more."""
        return sending.handed_in - len(self._producer or ())

    def _well(self) -> None:
        self._alarm.clear()
        self._denied = ""
