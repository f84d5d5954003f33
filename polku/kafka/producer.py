"""One librdkafka producer, and the thread that polls its delivery reports and tells the event loop when all are there.

The client reports failures alone to Python: an object for each record that was taken costs as much as sending it. A
record is confirmed once everything that was handed in is reported, so that the client's queue is empty, and no failure
is about this one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from polku.errors import RetryableError
from polku.kafka.client import LOG, UnfitError, explain, open_client
from polku.kafka.columns import RecordColumns
from polku.kafka.record import Record

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 1.0
_LAST_SECONDS = 2.0  # in which what is taken back at the end must be reported
_PURGED = ("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_FATAL", "_DESTROY")


class Left(NamedTuple):
    """A record that was not taken, and why: a `KafkaError`, an `UnfitError`, or None for want of a report."""

    record: Record
    error: Any


class Sending:
    """Some records in flight. The polling thread writes down what was reported, and the loop reads it."""

    def __init__(self) -> None:
        self.handed_in = 0
        self.failed: dict[int, Any] = {}
        self.is_all_in = False  # nothing more will be handed in
        self.is_settled = False  # everything that was handed in is reported
        self.is_over = False  # nothing more will be reported
        self.news = asyncio.Event()

    @property
    def confirmed(self) -> int:
        """How many records were taken, as far as known."""
        return self.handed_in - len(self.failed) if self.is_settled else 0

    def report(self, number: int, error: Any, message: Any) -> None:
        """Take the report of a record that was not taken, on the polling thread."""
        if error is not None:
            self.failed[number] = error

    async def wait(self) -> None:
        """Return when every record has its report, or none will come any more."""
        while not self._is_complete():
            self.news.clear()
            if not self._is_complete():
                await self.news.wait()

    def left(self, records: Sequence[Record]) -> list[Left]:
        """Return those of the records that were not taken, in order."""
        if self.confirmed == len(records):
            return []
        return [Left(record, self._error(n)) for n, record in enumerate(records) if not self._is_taken(n)]

    def taken(self, records: Sequence[Record]) -> list[Record]:
        """Return those of the records that were taken, in order."""
        return [record for number, record in enumerate(records) if self._is_taken(number)]

    def _is_taken(self, number: int) -> bool:
        return self.is_settled and number < self.handed_in and number not in self.failed

    def _is_complete(self) -> bool:
        if self.is_all_in and len(self.failed) >= self.handed_in:
            self.is_settled = True  # none of them got to the client's queue
        return self.is_over or self.is_settled

    def _error(self, number: int) -> Any:
        error = self.failed.get(number)
        if error is None or isinstance(error, UnfitError):
            return error
        return None if error.name() in _PURGED else error


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
        self._reports: list[Callable[..., None]] = []
        self._idle = threading.Event()
        self._idle.set()
        self._ended = False
        self._probe_at = 0.0
        self.broken = False
        self.fault = ""  # why it cannot go on
        self._thread = threading.Thread(target=self._run, name="polku-kafka-reports", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        client = self._client
        return len(client) if client is not None else 0

    def begin(self) -> Sending:
        """Begin to send records; one sending at a time.

        Nothing is reported until `handed_in`: the client takes Python's lock for each report, and would wrest it from
        the thread that hands records in.
        """
        self._idle.clear()
        self._sending = Sending()
        return self._sending

    def hand_in(self, sending: Sending, records: Sequence[Record]) -> int:
        """Put the next records into the local queue; return how many, fewer where it is full.

        Raises `RetryableError` once closed.
        """
        import confluent_kafka

        client = self._client
        if client is None:
            raise RetryableError("the emitter was closed")
        produce = client.produce
        rows = records.rows() if isinstance(records, RecordColumns) else records
        first = number = sending.handed_in
        reports = self._reports_up_to(first + len(records))
        try:
            for (_, topic, key, value, headers, _, partition, timestamp), on_delivery in zip(
                rows, islice(reports, first, None), strict=False
            ):
                try:  # by position, which takes a quarter less time; the sixth is another name of the fifth
                    produce(topic, value, key, partition, on_delivery, None, timestamp, headers)
                except BufferError:
                    break
                except confluent_kafka.KafkaException as error:
                    sending.failed[number] = error.args[0]
                except (TypeError, ValueError) as error:  # what the record is made of
                    sending.failed[number] = UnfitError(f"the client does not take the record: {error}")
                number += 1
        finally:
            sending.handed_in = number
        return number - first

    def _reports_up_to(self, count: int) -> list[Callable[..., None]]:
        """Return what takes the reports of the first, second, … record of a sending.

        They serve all sendings: each is reported to its end before the next one, or is the last of this producer.
        """
        while len(self._reports) < count:
            self._reports.append(partial(self._report, len(self._reports)))
        return self._reports

    def _report(self, number: int, error: Any, message: Any) -> None:
        if self._sending is not None:
            self._sending.report(number, error, message)

    def handed_in(self) -> None:
        """Let reports come, for now: until the next `begin` or `hand_in`."""
        self._idle.set()

    def purge(self) -> None:
        """Take back what is not confirmed: it fails, also what is on its way and may yet arrive.

        The failures are reported later: to wait for the client's threads here would stop the event loop, for seconds
        where they look up a host.
        """
        if self._sending is not None:
            self._sending.is_all_in = True
        self._idle.set()
        self.broken = True  # an idempotent producer does not go on behind a gap in its numbers
        if self._client is not None:
            self._client.purge(blocking=False)

    async def close(self) -> None:
        """Release the client, with what is still in it."""
        self.purge()
        self._ended = True
        self._idle.set()
        await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        import confluent_kafka

        try:
            self._poll()
        except confluent_kafka.KafkaException as error:  # a fatal one
            self.fault = explain(error.args[0])
            LOG.warning("reports", "the client cannot go on (%s); another one takes its place", self.fault)
        except Exception:  # a fault of ours: another producer takes over
            LOG.exception("reports", "the thread that reads Kafka's delivery reports ended")
        finally:
            self.broken = True
            self._client = None  # here, since letting go of it waits for its threads
            self._tell(self._end)

    def _poll(self) -> None:
        while not self._ended:
            if self._idle.wait(_POLL_SECONDS):
                self._take_reports()
            if self._probe_at and time.monotonic() >= self._probe_at:
                self._probe()
        deadline = time.monotonic() + _LAST_SECONDS
        while len(self._client) and time.monotonic() < deadline:
            self._look(self._client.poll(0.02))

    def _take_reports(self) -> None:
        """Poll; once everything is handed in, without the time that records linger for others."""
        sending = self._sending
        if sending is not None and sending.is_all_in and not sending.is_settled:
            self._client.flush(_POLL_SECONDS)
            self._look(0)
        else:
            self._look(self._client.poll(_POLL_SECONDS))

    def _look(self, reported: int) -> None:
        """Tell the loop where everything is reported, or where it waits for room in the queue and there is some."""
        sending = self._sending
        if sending is None or sending.is_settled:
            return
        if not sending.is_all_in:
            if reported:
                self._tell(self._wake)
        elif not len(self._client):  # since only this thread takes reports, all of them have been taken
            sending.is_settled = True
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

    def _end(self) -> None:
        if self._sending is not None:
            self._sending.is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._sending is not None:
            self._sending.news.set()

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits for this any more
            self._ended = True
