"""The way in for one ordered stream of records that a source pulls.

A rejected record becomes a dead letter with its position in the source; what the pipeline has no room for is retried
until it is accepted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from google.protobuf.message import DecodeError

from polku.batch.batch import Batch
from polku.batch.receipt import Refusal
from polku.codes import Code
from polku.contracts import DeadEvent, IngestContext, Pulled
from polku.errors import DrainingError, InputError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.gateway.admission import Admission, admit_events, admit_named
from polku.gateway.block_admission import admit_block
from polku.gateway.intake import Intake
from polku.ingest.passthrough import PassthroughIngestor
from polku.kafka.fields import RESERVED
from polku.pull.block import PulledBlock
from polku.text import as_id, line, said
from polku.v1.gateway_pb2 import Ack

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_RESERVED = frozenset(RESERVED)
_AGAIN = (Code.BUFFER_FULL, Code.UNAVAILABLE)

_Again: TypeAlias = Callable[[frozenset[str]], Awaitable[list[Event]]]
_Answer: TypeAlias = "asyncio.Future[Ack] | None"

Bury: TypeAlias = Callable[[Sequence[DeadEvent]], "Awaitable[None] | None"]


class Stream:
    """The way in for one ordered stream of records."""

    def __init__(
        self,
        intake: Intake,
        bury: Bury,
        source: str,
        *,
        cluster: str = "",
        format: str = "",
        reader: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._intake = intake
        self._bury = bury
        self._context = IngestContext(source, cluster, str(format))
        self._reader = reader or source
        self._sleep = sleep
        self._clear = asyncio.Event()
        self._clear.set()
        self._turn = asyncio.Lock()
        self._troubled = 0

    async def push(self, records: Sequence[Pulled]) -> Awaitable[None]:
        """Hand records in, in order; see `PulledStream`."""
        await self._clear.wait()
        runs = await self._read(records)
        answers: list[_Answer] = []
        for run in runs:
            answers.append(await self._begin(run))
        return asyncio.ensure_future(self._settle(records, runs, answers))

    async def push_block(self, block: PulledBlock) -> Awaitable[None]:
        """Hand records in that are serialised together; see `BlockStream`."""
        await self._clear.wait()
        admission = self._admit(block)
        if admission is None:
            return await self.push(block.records())
        return asyncio.ensure_future(self._settle_block(block, await self._take(admission, len(block.payload))))

    def _admit(self, block: PulledBlock) -> Admission | None:
        """Admit a block if all is good; None where its records have to be looked at one by one."""
        if block.ids is None and not self._are_events():
            return None
        source, cluster = self._context[:2]
        return admit_block(block, source, cluster, self._intake.limits)

    async def _settle_block(self, block: PulledBlock, answer: Awaitable[Ack]) -> None:
        if left := _left(await answer):
            events = Batch(payload=block.payload, count=len(block.sizes))
            await self._insist(left, len(block.payload), partial(self._read_again, events))

    async def _read_again(self, batch: Batch, left: frozenset[str]) -> list[Event]:
        return [event for event in batch.sealed().events if event.id in left]

    async def _read(self, records: Sequence[Pulled]) -> list[_Run]:
        """Turn records into events, in runs in which no id appears twice: refusals go by id."""
        limits = self._intake.limits
        are_events = self._are_events()
        runs = [_Run()]
        for record in records:
            event = _parse(record.content) if are_events else None
            events = [event] if event is not None else await self._events(record, runs[-1].dead)
            for number, event in enumerate(events):
                fill_in(event, record, number, limits.id_bytes)
            size = len(record.content) if isinstance(record.content, bytes) else sum(map(Event.ByteSize, events))
            run, ids = runs[-1], [event.id for event in events]
            full = run.size + size > limits.message_bytes or len(run.ids) + len(ids) > limits.batch_events
            if run.ids and (full or not run.places.keys().isdisjoint(ids)):
                runs.append(run := _Run())
            run.add(events, ids, record.place, size)
        return runs

    def _are_events(self) -> bool:
        """Return whether bytes are an event each, and nobody else is to read them."""
        own = self._intake.ingestors.own(self._reader)
        return self._context.format == "event" and type(own) is PassthroughIngestor

    async def _events(self, record: Pulled, dead: list[DeadEvent]) -> list[Event]:
        content = record.content
        if isinstance(content, Event):
            event = Event()
            event.CopyFrom(content)  # middleware may change it in place, and it may have to be sent again
            return [event]
        if isinstance(content, RecordError):
            dead.append(self._dead(record, Refusal(as_id(content.event_id), content.code, said(content)), 0))
            return []
        pause = _FIRST_PAUSE
        while True:
            try:
                events, refused, _ = await self._intake.ingestors.read(content, self._context, self._reader)
                dead += [self._dead(record, refusal, number) for number, refusal in enumerate(refused)]
                return events
            except InputError as error:
                if error.code not in _AGAIN:  # a plugin that is down comes back
                    dead.append(self._dead(record, Refusal("", error.code, error.message), 0))
                    return []
            pause = await self._pause(pause)

    async def _begin(self, run: _Run) -> _Answer:
        """Send a run's events on their way; what the limits refuse is dead."""
        source, cluster = self._context[:2]
        try:
            limits = self._intake.limits
            admission = None
            if len(run.places) == len(run.ids):  # else two events of one record have the same id
                admission = admit_named(run.events, list(run.ids), source, cluster, limits)
            if admission is None:
                admission = admit_events(run.events, source, cluster, limits)
            for refusal in admission.refused:
                run.bury(run.events[refusal.position], refusal._replace(position=-1))
            return asyncio.ensure_future(await self._take(admission, run.size)) if admission.ids else None
        except InputError as error:
            for event in run.events:
                run.bury(event, Refusal(event.id, error.code, error.message))
            return None

    async def _take(self, admission: Admission, size: int) -> Awaitable[Ack]:
        try:
            return await self._intake.take(admission, size)
        except InputError as error:
            if error.code is Code.DRAINING:
                raise DrainingError(error.message) from None
            raise

    async def _settle(self, records: Sequence[Pulled], runs: list[_Run], answers: list[_Answer]) -> None:
        for number, (run, answer) in enumerate(zip(runs, answers, strict=True)):
            if run.dead and (stored := self._bury(run.dead)) is not None:
                await stored
            left = _left(await answer) if answer is not None else frozenset()
            if left:
                start = sum(len(before.ids) for before in runs[:number])
                await self._insist(left, run.size, partial(self._run_again, records, start, run))

    async def _insist(self, left: frozenset[str], size: int, read: _Again) -> None:
        """Send again what the pipeline could not take; nothing that comes later starts before it is in.

        Middleware may have changed the events that were sent: `read` makes them again.
        """
        self._troubled += 1
        self._clear.clear()
        try:
            async with self._turn:
                pause = _FIRST_PAUSE
                while left:
                    pause = await self._pause(pause)
                    source, cluster = self._context[:2]
                    admission = admit_events(await read(left), source, cluster, self._intake.limits)
                    before, left = len(left), _left(await (await self._take(admission, size)))
                    pause = _FIRST_PAUSE if len(left) < before else pause
        finally:
            self._troubled -= 1
            if not self._troubled:
                self._clear.set()

    async def _run_again(self, records: Sequence[Pulled], start: int, run: _Run, left: frozenset[str]) -> list[Event]:
        """Read those events of a run again: it stands behind `start` others that the records make."""
        events = [event for other in await self._read(records) for event in other.events]
        again = events[start : start + len(run.ids)]
        for event, event_id in zip(again, run.ids, strict=False):
            event.id = event_id
        return [event for event in again if event.id in left]

    async def _pause(self, seconds: float) -> float:
        if self._intake.draining:
            raise DrainingError("the pipeline is stopping")
        await self._sleep(seconds)
        return min(2 * seconds, _LONGEST_PAUSE)

    def _dead(self, record: Pulled, refusal: Refusal, number: int) -> DeadEvent:
        """Make the dead letter of a record, with its bytes as the payload."""
        event = Event(source=self._context.source, payload=record.content if isinstance(record.content, bytes) else b"")
        fill_in(event, record, number, self._intake.limits.id_bytes)
        return DeadEvent(event, refusal._replace(event_id=event.id, message=f"{line(record.place)}: {refusal.message}"))


def _parse(content: object) -> Event | None:
    """Return the event that bytes are; None where its ingestor has to say what is wrong with them."""
    if not isinstance(content, bytes):
        return None
    try:
        event = Event.FromString(content)
    except DecodeError:
        return None
    # What has an id is no accident; whether other bytes are an event at all, the ingestor knows.
    return event if event.id else None


class _Run:
    """Events that go as one batch, where each stood, and what died before that."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ids: list[str] = []
        self.places: dict[str, str] = {}
        self.dead: list[DeadEvent] = []
        self.size = 0

    def add(self, events: list[Event], ids: list[str], place: str, size: int) -> None:
        """Take in what one record became."""
        self.events += events
        self.ids += ids
        for event_id in ids:
            self.places[event_id] = place
        self.size += size

    def bury(self, event: Event, refusal: Refusal) -> None:
        """Make an event a dead letter."""
        place = self.places[event.id]
        self.dead.append(
            DeadEvent(event, refusal._replace(event_id=event.id, message=f"{line(place)}: {refusal.message}"))
        )


def _left(ack: Ack) -> frozenset[str]:
    """Return the ids that may be taken later; what else was refused is a dead letter already, or dropped by rule."""
    if any(error.code == Code.DRAINING for error in ack.errors):
        raise DrainingError("the pipeline stopped before it took all of it")
    return frozenset(error.event_id for error in ack.errors if error.code in _AGAIN)


def fill_in(event: Event, record: Pulled, number: int, id_bytes: int) -> None:
    """Give an event what it lacks and its record has."""
    try:
        _set_missing(event, record, number, id_bytes)
    except UnicodeEncodeError:
        metadata = {as_id(key): as_id(value) for key, value in record.metadata.items()}
        _set_missing(event, record._replace(id=as_id(record.id), metadata=metadata), number, id_bytes)


def _set_missing(event: Event, record: Pulled, number: int, id_bytes: int) -> None:
    if not event.id:
        event.id = _bounded_id(f"{record.id}-{number}" if number else record.id, id_bytes)
    if not event.timestamp_unix_ns and record.time_ns > 0:
        event.timestamp_unix_ns = record.time_ns
    if not record.metadata:
        return
    metadata = event.metadata
    if metadata and not _RESERVED.isdisjoint(record.metadata):
        for key in _RESERVED.intersection(metadata):  # those of a record on its way here are not those of this one
            del metadata[key]
    for key, value in record.metadata.items():
        if key not in metadata:
            metadata[key] = value


def _bounded_id(event_id: str, limit: int) -> str:
    """Return an id of ours (a long topic's, say) within the limit: what is too long ends in a digest of all of it."""
    if 4 * len(event_id) <= limit or len(event_id.encode()) <= limit:
        return event_id
    digest = hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()[:limit]
    begin = event_id.encode()[: max(0, limit - len(digest) - 1)].decode("utf-8", "ignore")
    return f"{begin}~{digest}" if begin else digest
