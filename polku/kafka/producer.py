"""One librdkafka producer, and the thread that polls its delivery reports and hands them to the event loop in bulk."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from polku.kafka.client import open_client
from polku.kafka.record import Record

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 1.0
_PURGED = ("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_FATAL", "_DESTROY")


class Left(NamedTuple):
    """A record that was not taken, and its `KafkaError`; None where it was taken back for want of a report."""

    record: Record
    error: Any


class Sending:
    """Some records under way. The polling thread writes down what was reported, and the loop reads it."""

    def __init__(self) -> None:
        self.handed_in = self.confirmed = 0
        self.failed: dict[int, Any] = {}
        self.news = asyncio.Event()

    def report(self, number: int, error: Any, message: Any) -> None:
        """Take a delivery report, on the polling thread."""
        if error is None:
            self.confirmed += 1
        else:
            self.failed[number] = error

    async def wait(self) -> None:
        """Return when every record has its report."""
        while self.confirmed + len(self.failed) < self.handed_in:
            self.news.clear()
            if self.confirmed + len(self.failed) < self.handed_in:
                await self.news.wait()

    def left(self, records: Sequence[Record]) -> list[Left]:
        """Return those of the records that were not taken, in order."""
        if self.confirmed == len(records):
            return []
        failed = {number: None if error.name() in _PURGED else error for number, error in self.failed.items()}
        failed.update(dict.fromkeys(range(self.handed_in, len(records))))
        return [Left(records[number], failed[number]) for number in sorted(failed)]


class Producer:
    """Hand records in and hear of them; `on_error` gets what concerns no record, `on_well` says that brokers answer."""

    def __init__(
        self, where: str, settings: Mapping[str, Any], on_error: Callable[[Any], None], on_well: Callable[[], None]
    ) -> None:
        import confluent_kafka

        self._loop = asyncio.get_running_loop()
        self._on_error, self._on_well = on_error, on_well
        self._client = open_client(where, confluent_kafka.Producer, {**settings, "error_cb": self._heard})
        self._sending: Sending | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._ended = False
        self._probe_at = 0.0
        self.broken = False
        self._thread = threading.Thread(target=self._poll, name="polku-kafka-reports", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._client)

    def begin(self) -> Sending:
        """Begin to send some records; one sending at a time.

        Nothing is reported until `handed_in`: the client takes Python's lock for each report, and would wrest it from
        the thread that hands records in.
        """
        self._idle.clear()
        self._sending = Sending()
        return self._sending

    def hand_in(self, sending: Sending, record: Record) -> bool:
        """Put the next record into the local queue; False while that is full."""
        import confluent_kafka

        number = sending.handed_in
        report = partial(sending.report, number)
        try:
            self._client.produce(record.topic, record.value, record.key, on_delivery=report, headers=record.headers)
        except BufferError:
            return False
        except confluent_kafka.KafkaException as error:
            sending.failed[number] = error.args[0]
        sending.handed_in = number + 1
        return True

    def handed_in(self) -> None:
        """Let reports come, for now: until the next `begin` or `hand_in`."""
        self._idle.set()

    def purge(self) -> None:
        """Take back what is not confirmed: it fails, also what is on its way and may yet arrive."""
        self._idle.set()
        self.broken = True  # an idempotent producer does not go on behind a gap in its numbers
        self._client.purge()

    async def close(self) -> None:
        """Let go of the client, with what is still in it."""
        self._client.purge()
        self._ended = True
        self._idle.set()
        await asyncio.to_thread(self._thread.join, 5.0)

    def _poll(self) -> None:
        while not self._ended:
            if self._idle.wait(_POLL_SECONDS) and self._client.poll(_POLL_SECONDS):
                self._tell(self._wake)
            if self._probe_at and time.monotonic() >= self._probe_at:
                self._probe()
        while self._client.poll(0):
            pass
        self._tell(self._wake)

    def _heard(self, error: Any) -> None:
        if error.fatal():
            self.broken = True
        self._probe_at = time.monotonic() + _PROBE_SECONDS
        self._tell(self._on_error, error)

    def _probe(self) -> None:
        """Ask a broker for its topics: an idle client says when brokers go, but not when they come back."""
        import confluent_kafka

        try:
            self._client.list_topics(timeout=_PROBE_SECONDS)
        except confluent_kafka.KafkaException:
            self._probe_at = time.monotonic() + _PROBE_SECONDS
        else:
            self._probe_at = 0.0
            self._tell(self._on_well)

    def _wake(self) -> None:
        if self._sending is not None:
            self._sending.news.set()

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits for this any more
            self._ended = True
