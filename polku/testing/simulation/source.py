"""A source that a pipeline pulls from: a log of records, of which those that were not committed come again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from polku.contracts import Pulled, PulledStream, SourceState
from polku.errors import DrainingError
from polku.event.v1.event_pb2 import Event
from polku.testing.simulation.ledger import Input
from polku.testing.simulation.lineage import mark, tokens_of
from polku.testing.simulation.loop import Process, current_process
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.clock import Clock
    from polku.testing.simulation.world import World


class RecordLog:
    """The records at the far end, and up to which of them all are committed: both outlive every process.

    One process reads at a time; when it dies, another does. A commit counts in the ledger as an acknowledgement.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.records: list[list[Event]] = []
        self.committed = 0
        self.grown = asyncio.Event()
        self._world = world
        self._reader: Process | None = None
        self._free = asyncio.Event()
        self._moved = asyncio.Event()

    def append(self, events: list[Event]) -> None:
        """Add a record."""
        self.records.append(events)
        self.grown.set()

    async def lease(self) -> None:
        """Return when this process alone reads."""
        process = current_process()
        while self._reader not in (None, process) and self._reader is not None and not self._reader.dead:
            self._free.clear()
            await self._free.wait()
        if process is not None and process is not self._reader:
            self._reader = process
            process.on_death.append(self._free.set)

    def note(self, records: Sequence[list[Event]]) -> None:
        """Write down that these are read, perhaps not for the first time."""
        for event in (event for events in records for event in events):
            for token in tokens_of(event):
                known = self._world.ledger.inputs.setdefault(token, Input(token, event.id, is_pulled=True))
                known.attempts += 1

    async def done(self) -> None:
        """Return when all that is there is committed."""
        while self.committed < len(self.records):
            self._moved.clear()
            await self._moved.wait()

    def commit(self, end: int) -> None:
        """Take all records before this one for done."""
        done = self.records[self.committed : end]
        self.committed = max(self.committed, end)
        self._moved.set()
        for event in (event for events in done for event in events):
            for token in tokens_of(event):
                self._world.ledger.inputs[token].accepted += 1
                self._world.ledger.count("records committed")
                for check in self._world.on_committed:
                    check(token)


class SimulatedSource:
    """A source's configuration: `at_once` records in a push, as bytes for an ingestor if `raw`.

    After each of `failures` (numbers of pushes) its code raises once.
    """

    def __init__(
        self, world: World, log: RecordLog, *, at_once: int = 1, raw: bool = False, failures: Sequence[int] = ()
    ) -> None:
        self.world = world
        self.log = log
        self.content_key = log.name
        self.at_once = at_once
        self.raw = raw
        self.failures = list(failures)
        self.pushes = 0

    def build(self, clock: Clock) -> _Source:
        """Make the source."""
        return _Source(self)


class _Source:
    def __init__(self, config: SimulatedSource) -> None:
        self._config = config
        self._log = config.log
        self._is_stopped = False
        self._is_broken = False
        self._committing: asyncio.Task[None] | None = None
        self._answers: set[Awaitable[None]] = set()  # of what is not committed yet

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        await self._log.lease()
        if self._committing is not None:
            self._committing.cancel()
        self._committing, self._is_broken = None, False
        stream = open_stream(source=self._log.name)
        position = self._log.committed
        while not self._is_stopped:
            records = self._log.records[position : position + self._config.at_once]
            if not records:
                self._log.grown.clear()
                await self._log.grown.wait()
                continue
            self._log.note(records)
            try:
                answer = await stream.push([self._pulled(position + n, events) for n, events in enumerate(records)])
            except DrainingError:
                return
            self._answers.add(answer)
            position += len(records)
            self._committing = asyncio.ensure_future(self._commit(self._committing, answer, position))
            self._config.pushes += 1
            if self._config.pushes in self._config.failures:
                raise ConnectionError("the broker hung up")

    async def _commit(self, before: asyncio.Task[None] | None, answer: Awaitable[None], end: int) -> None:
        """Commit after what came before: what is not answered stays open, with all behind it."""
        if before is not None:
            await before
        try:
            await answer
        except DrainingError:
            self._is_broken = True
        finally:
            self._answers.discard(answer)
        await asyncio.sleep(self._config.world.random.random() * 0.01)
        if not self._is_broken:
            self._log.commit(end)

    def _pulled(self, number: int, events: list[Event]) -> Pulled:
        place = f"{self._log.name}, record {number}"
        if not self._config.raw:
            return Pulled(events[0], place, place)
        data = EventPayload(events=events).SerializeToString()
        known = mark(Event(payload=data), [token for event in events for token in tokens_of(event)])
        return Pulled(data, place, place, metadata=dict(known.metadata))  # for the letter of what cannot be read

    def stop(self) -> None:
        self._is_stopped = True
        self._log.grown.set()

    async def drain(self) -> None:
        if self._committing is not None:
            await asyncio.wait((self._committing,))

    async def close(self) -> None:
        if self._committing is not None:
            self._committing.cancel()
        for answer in self._answers:
            asyncio.ensure_future(answer).cancel()

    def state(self) -> SourceState:
        return SourceState("reads", records=self._config.pushes, lag=len(self._log.records) - self._log.committed)
