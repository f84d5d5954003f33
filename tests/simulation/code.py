"""User code, as users write it at their worst: what it does with an event stands in the event's own `flaw`.

A flaw is `STEP:DEED`: when the step of that number comes to the event, the deed is done. All code keeps the lineage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from polku import Event
from polku.contracts import IngestContext
from polku.middleware.bucket import TokenBucket  # noqa: F401  (imported once, not in the first case)
from polku.testing.simulation.destination import AbandonError
from polku.testing.simulation.ledger import Ledger
from polku.testing.simulation.lineage import mark, number_of, part_of, root_of, tokens_of
from polku.testing.simulation.loop import current_process
from polku.testing.simulation.world import World
from polku.v1.gateway_pb2 import EventPayload

DEEDS_SYNC = ("raise", "surrogate", "cancelled", "exit", "base", "nonsense", "no-text", "block")
DEEDS_ASYNC = (*DEEDS_SYNC, "hang", "slow")


class _NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Code:
    """What the steps of one case call."""

    content_key = "code"

    def __init__(self, world: World, poison: dict[str, Any] | None = None) -> None:
        self.world = world
        self.poison = poison
        self.ledger: Ledger = world.ledger

    def flaw(self, step: int, event: Event) -> str:
        text = event.metadata.get("flaw", "")
        if self.poison and self.poison["step"] == step and self.poison["token"] in map(root_of, tokens_of(event)):
            return "poison"
        number, _, deed = text.partition(":")
        return deed if number == str(step) else ""

    def do(self, deed: str, event: Event) -> Any:
        """Do it; returns what is to be returned in the result's place, if anything."""
        for token in tokens_of(event):
            self.ledger.bad[token] = deed
        self.ledger.count(f"code {deed}")
        match deed:
            case "raise":
                raise ValueError(f"cannot work on {event.id}")
            case "surrogate":
                raise ValueError("not printable: \udce4 \ud800")
            case "cancelled":
                raise asyncio.CancelledError
            case "exit":
                raise SystemExit(1)
            case "base":
                raise AbandonError("panicked")
            case "no-text":
                raise _NoTextError
            case "block":
                time.sleep(3.0)
            case "nonsense":
                return 42
        return None

    async def do_async(self, deed: str, event: Event) -> Any:
        if deed == "poison":
            for token in tokens_of(event):
                self.ledger.bad[token] = deed
            self.ledger.count("code poison")
            process = current_process()
            assert process is not None
            self.world.loop.kill(process)
            await asyncio.sleep(1e9)
        if deed in ("hang", "slow"):
            for token in tokens_of(event):
                self.ledger.bad[token] = deed
            self.ledger.count(f"code {deed}")
            await asyncio.sleep(1e9 if deed == "hang" else 1.5)
            return None
        if deed == "cancelled":
            for token in tokens_of(event):
                self.ledger.bad[token] = deed
            self.ledger.count(f"code {deed}")
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task
        return self.do(deed, event)

    def each(self, step: int, work: Callable[[Event], object], *, is_async: bool) -> Callable[[Event], Any]:
        """Return a function of one event that does its work, or the event's deed."""

        def call(event: Event) -> Any:
            deed = self.flaw(step, event)
            if deed:
                wrong = self.do(deed, event)
                if wrong is not None:
                    return wrong
            return work(event)

        async def call_async(event: Event) -> Any:
            deed = self.flaw(step, event)
            if deed:
                wrong = await self.do_async(deed, event)
                if wrong is not None:
                    return wrong
            elif number_of(tokens_of(event)[0]) % 3 == 0:
                await asyncio.sleep(self.world.random.random() * 0.01)
            return work(event)

        return call_async if is_async else call

    def whole(
        self, step: int, work: Callable[[list[Event]], object], *, is_async: bool
    ) -> Callable[[list[Event]], Any]:
        """Return a function of all events that raises where one of them has a deed."""

        def call(events: list[Event]) -> Any:
            for event in events:
                if deed := self.flaw(step, event):
                    wrong = self.do(deed, event)
                    if wrong is not None:
                        return wrong
            return work(events)

        async def call_async(events: list[Event]) -> Any:
            for event in events:
                if deed := self.flaw(step, event):
                    wrong = await self.do_async(deed, event)
                    if wrong is not None:
                        return wrong
            await asyncio.sleep(self.world.random.random() * 0.005)
            return work(events)

        return call_async if is_async else call

    def ingest(self, data: bytes, context: IngestContext) -> object:
        """Read a list of events; a flaw of an ingestor spoils the whole message."""
        events = list(EventPayload.FromString(data).events)
        for event in events:
            deed = self.flaw(-1, event)
            if deed:
                for other in events:
                    for token in tokens_of(other):
                        self.ledger.bad[token] = deed
                wrong = self.do(deed, event)
                if wrong is not None:
                    return wrong
        return events

    async def ingest_async(self, data: bytes, context: IngestContext) -> object:
        await asyncio.sleep(self.world.random.random() * 0.01)
        return self.ingest(data, context)

    def keeps(self, every: int) -> Callable[[Event], bool]:
        return lambda event: number_of(tokens_of(event)[0]) % every != 0

    def by_chance(self, event: Event) -> bool:
        """Keep an event, or do not: the next time otherwise."""
        return self.world.random.random() < 0.5

    def route_by_chance(self, names: list[str]) -> Callable[[Event], None]:
        """Send events to one emitter or another: the next time to another one."""

        def work(event: Event) -> None:
            event.route_to[:] = [self.world.random.choice(names)]

        return work

    def touch(self, event: Event) -> None:
        event.metadata["touched"] = "yes"

    def replace(self, ids: str) -> Callable[[Event], Event]:
        """Make another event of each: with a new id, one of its own or one that others have too."""

        def work(event: Event) -> Event:
            out = Event()
            out.CopyFrom(event)
            out.id = self._id(ids, event, 0)
            return out

        return work

    def split(self, count: int, ids: str) -> Callable[[list[Event]], list[Event]]:
        """Cut each event into parts."""

        def work(events: list[Event]) -> list[Event]:
            return [part for event in events for part in self.cut(event, count, ids)]

        return work

    def cut(self, event: Event, count: int, ids: str) -> list[Event]:
        parts = []
        for number in range(count):
            part = Event()
            part.CopyFrom(event)
            tokens = tokens_of(event)
            for token in tokens:
                self.ledger.parts[token] = count
            part.payload = event.payload + bytes([number])
            part.id = self._id(ids, event, number)
            parts.append(mark(part, [part_of(token, number, count) for token in tokens]))
        return parts

    def _id(self, ids: str, event: Event, number: int) -> str:
        if ids == "fresh":
            return ""
        if ids == "derived":
            return f"{event.id}~{number}"
        if ids == "shared":
            return f"same-{number_of(tokens_of(event)[0]) % 3}"
        return event.id
