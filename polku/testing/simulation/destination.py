"""Destinations that a script makes slow, dead, choosy or false."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from polku.batch.batch import Batch
from polku.contracts import Collecting, Failure
from polku.emit.parts import send_parts
from polku.errors import MisconfiguredError, RejectedError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.testing.simulation.ledger import Destination
from polku.testing.simulation.lineage import number_of, tokens_of
from polku.testing.simulation.loop import current_process
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.clock import Clock
    from polku.testing.simulation.world import World

MODES = (
    "ok",
    "raise",
    "raise-later",
    "hang",
    "partial",
    "store-and-raise",
    "late",
    "nonsense",
    "stranger",
    "cancelled",
    "exit",
    "retry-after",
    "misconfigured",
    "reject",
    "surrogate",
    "base",
)
"""What a destination may do with a call; `start` in a script is the time in which an emitter cannot be started."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Up to `until` (seconds since the beginning) the destination behaves as `mode` says."""

    until: float
    mode: str


@dataclass(frozen=True, slots=True)
class Script:
    """Say how a destination behaves: seconds for a call and for an event, phases, whom it refuses permanently.

    `refuse_every` n: the inputs whose number can be divided by n. After the last phase all is well. `kind` is how its
    emitter works: `plain` sends a batch at once, `parts` each event by itself, `collect` has groups collected for it,
    and `stdout` is the built-in emitter in front of a simulated console.
    """

    latency: float = 0.001
    per_event: float = 0.0
    phases: tuple[Phase, ...] = ()
    refuse_every: int = 0
    concurrency: int = 1
    recovers: bool = True
    kind: str = "plain"


class GoneError(Exception):
    """Say that a connection was cut."""


class AbandonError(BaseException):
    """Stand for exceptions that are no `Exception`, such as a panic of a library in another language."""


class SimulatedEmitter:
    """An emitter's configuration: the emitters that it builds talk to one simulated destination."""

    def __init__(self, world: World, record: Destination, script: Script, *, version: int = 0) -> None:
        self.world = world
        self.record = record
        self.script = script
        self.name = record.name
        self.content_key = (record.name, repr(script), version)
        self.starts = version >= 0
        self.may_recover = script.recovers
        self.concurrency = script.concurrency

    def build(self, clock: Clock) -> _Emitter:
        """Make the emitter."""
        return {"parts": _PartsEmitter, "collect": _CollectingEmitter}.get(self.script.kind, _Emitter)(self)


class _Emitter:
    def __init__(self, config: SimulatedEmitter) -> None:
        self._world = config.world
        self._record = config.record
        self._script = config.script
        self.concurrency = config.concurrency
        self._starts = config.starts

    async def start(self) -> None:
        if not self._starts:
            raise RuntimeError(f"{self._record.name}: this one never starts")
        process = current_process()
        name = process.name if process else ""
        self._record.starts[name] = self._record.starts.get(name, 0) + 1
        if self._mode() == "start" and self._record.starts[name] > 1:  # a pipeline that cannot start at all says so
            raise RuntimeError(f"{self._record.name}: its destination cannot be found")

    async def emit(self, batch: Batch) -> Any:
        # As an emitter does it that sends the bytes on: what the product decoded is not looked at.
        events = list(EventPayload.FromString(batch.payload).events)
        mode = self._mode()
        process = current_process()
        self._record.latest[process.name if process else ""] = mode
        self._world.trace(f"{self._record.name}: {mode} {[event.id for event in events]}")
        if mode != "ok":
            self._world.ledger.count(f"destination {mode}")
        handle = getattr(self, f"_{mode.replace('-', '_')}", None)
        if handle is not None:
            self._note(self._record.failed, events)
            return await handle(events)
        return await self._ok(events)

    def _mode(self) -> str:
        now = self._world.now
        return next((phase.mode for phase in self._script.phases if now < phase.until), "ok")

    async def _ok(self, events: Sequence[Event]) -> list[Failure]:
        await self._take_time(events)
        refused = [(place, event) for place, event in enumerate(events) if self._refuses(event)]
        self._note(self._record.refused, [event for _, event in refused])
        self._store([event for event in events if not self._refuses(event)])
        return [Failure(event.id, "does not like it", retryable=False, position=place) for place, event in refused]

    def _refuses(self, event: Event) -> bool:
        every = self._script.refuse_every
        return bool(every) and any(number_of(token) % every == 0 for token in tokens_of(event))

    def _store(self, events: Sequence[Event]) -> None:
        self._world.ledger.arrive(self._record.name, events)

    def _note(self, where: set[str], events: Sequence[Event]) -> None:
        where.update(token for event in events for token in tokens_of(event))

    async def _take_time(self, events: Sequence[Event]) -> None:
        jitter = 0.5 + self._world.random.random()
        await asyncio.sleep(self._script.latency * jitter + self._script.per_event * len(events))

    async def _raise(self, events: Sequence[Event]) -> None:
        raise GoneError("connection refused")

    async def _raise_later(self, events: Sequence[Event]) -> None:
        await self._take_time(events)
        raise RetryableError("connection reset")

    async def _surrogate(self, events: Sequence[Event]) -> None:
        raise ValueError("not printable: \udce4")

    async def _hang(self, events: Sequence[Event]) -> None:
        await asyncio.sleep(1e9)

    async def _partial(self, events: Sequence[Event]) -> list[Failure]:
        await self._take_time(events)
        taken = [event for event in events if self._world.random.random() < 0.5 and not self._refuses(event)]
        ids = {event.id for event in taken}
        if len(ids) < len(events) and len({event.id for event in events}) < len(events):
            taken, ids = [], set()  # an emitter that knows events by their ids alone cannot tell these apart
        self._store(taken)
        rest = [event for event in events if event.id not in ids]
        self._note(self._record.troubled, rest)
        return [Failure(event.id, "busy", retryable=True) for event in rest]

    async def _store_and_raise(self, events: Sequence[Event]) -> None:
        await self._ok(events)
        raise GoneError("connection lost while it answered")

    async def _late(self, events: Sequence[Event]) -> list[Failure]:
        try:
            await asyncio.sleep(65.0)
        finally:
            self._store([event for event in events if not self._refuses(event)])
        return await self._ok(events)

    async def _nonsense(self, events: Sequence[Event]) -> object:
        self._note(self._record.refused, events)
        return 42

    async def _stranger(self, events: Sequence[Event]) -> list[Failure]:
        self._note(self._record.refused, events)
        return [Failure("nobody", "who is that", retryable=True)]

    async def _cancelled(self, events: Sequence[Event]) -> None:
        raise asyncio.CancelledError

    async def _exit(self, events: Sequence[Event]) -> None:
        raise SystemExit(3)

    async def _base(self, events: Sequence[Event]) -> None:
        raise AbandonError("panicked")

    async def _retry_after(self, events: Sequence[Event]) -> None:
        raise RetryableError("too many requests", retry_after=7.0)

    async def _misconfigured(self, events: Sequence[Event]) -> None:
        raise MisconfiguredError("wrong password")

    async def _reject(self, events: Sequence[Event]) -> None:
        self._note(self._record.refused, events)
        raise RejectedError("never")


class _One(NamedTuple):
    """One event, as the part of a batch."""

    event: Event
    position: int

    @property
    def positions(self) -> Sequence[int]:
        return (self.position,)

    @property
    def ids(self) -> Sequence[str]:
        return (self.event.id,)

    def halves(self) -> Sequence[_One]:
        return (self,)


class _PartsEmitter(_Emitter):
    """Send each event by itself, one after the other, as emitters do whose messages hold few."""

    async def _ok(self, events: Sequence[Event]) -> list[Failure]:
        return await send_parts([_One(event, at) for at, event in enumerate(events)], self._send)

    async def _send(self, part: _One) -> list[Failure]:
        return await _Emitter._ok(self, [part.event])


class _CollectingEmitter(_Emitter):
    """Have groups of events by source."""

    collecting = Collecting(max_events=5, max_bytes=4_000, max_age=2.0, max_groups=3, max_held_bytes=20_000)

    def group(self, event: Event) -> str:
        if event.event_type == "b.y" and self._refuses(event):
            self._note(self._record.refused, [event])
            raise ValueError(f"no group for {event.id}")
        return event.source


class SimulatedConsole:
    """The standard output, where what the built-in emitter prints arrives."""

    def __init__(self, world: World, record: Destination, script: Script) -> None:
        self._emitter = _Emitter(SimulatedEmitter(world, record, script))

    async def write(self, text: bytes) -> None:
        """Read the lines, and treat them as a batch."""
        events = [_event_of(line) for line in text.splitlines()]
        answer = await self._emitter.emit(Batch.from_events(events))
        if answer:
            raise RetryableError("only a part was written")


def _event_of(line: bytes) -> Event:
    fields = json.loads(line)
    event = Event(id=fields["id"], source=fields["source"], event_type=fields["event_type"])
    event.payload = base64.b64decode(fields.get("payload", ""))
    for key, value in fields.get("metadata", {}).items():
        event.metadata[key] = value
    return event
