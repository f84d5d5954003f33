"""A way through a stage, a link and a buffer, with requests that hear what became of their events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from polku import BufferStrategy, Event
from polku.buffer.buffer import Buffer
from polku.contracts import Outcome
from polku.dead_letters import DeadLetters
from polku.gateway.admission import Admission, admit_events
from polku.gateway.intake import Intake
from polku.limits import Limits
from polku.link.link import Link, LocalPeer, Outgoing, Receiver, Window
from polku.link.local import LocalLink
from polku.middleware.adapt import as_step
from polku.stage.holding import is_holder
from polku.stage.replicas import Replicas, ReplyLink
from polku.stage.stage import Stage
from polku.v1.gateway_pb2 import Ack
from tests.buffer.parts import Destination
from tests.support.clock import FakeClock

FIELDS = {
    "rate_limited": "rate_limited_count",
    "sampled_out": "sampled_out_count",
    "deduplicated": "dedup_count",
    "filtered": "filtered_count",
    "overflowed": "buffer_overflow_count",
    "received": "total_received",
    "forwarded": "total_forwarded",
}


def told(ack: Ack) -> dict[str, int]:
    """Return the numbers of an Ack that are not zero."""
    stats = {name: getattr(ack.middleware_stats, field) for name, field in FIELDS.items()}
    return {name: number for name, number in stats.items() if number}


class Drops:
    """Drop the events of one type, for the reason of that name."""

    reads_only = True

    def __init__(self, reason: str) -> None:
        self.name = self.drop_reason = reason

    def process(self, events: list[Event], batch: int) -> Outcome:
        kept = [event for event in events if event.event_type != self.name]
        return Outcome(events if len(kept) == len(events) else kept)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass


class Splits:
    """Make three events of one, of which the second is to be filtered; all have its id, or ids of their own."""

    def __init__(self, *, same_id: bool) -> None:
        self._same_id = same_id

    def process(self, events: list[Event]) -> list[Event]:
        made = []
        for event in events:
            made.append(event)
            if event.event_type == "splits":
                made += [self._copy(event, number) for number in (1, 2)]
        return made

    def _copy(self, event: Event, number: int) -> Event:
        copy = Event()
        copy.CopyFrom(event)
        copy.id = event.id if self._same_id else f"{event.id}/{number}"
        copy.event_type = "filtered" if number == 1 else "goes on"
        return copy


class Pipe:
    """Put stages, one for each list of components, behind an intake; from the last to the first they have replicas."""

    def __init__(
        self, *stages: Sequence[object], buffer: Buffer | None = None, replicas: int = 1, window: Window | None = None
    ) -> None:
        self.stages: list[Stage] = []
        self.clock = FakeClock()
        self.letters = DeadLetters()
        self.destination = Destination()
        if buffer is None:
            strategy = BufferStrategy.ring(100_000)
            buffer = Buffer(strategy, {"out": Link("out", LocalPeer(self.destination))}, self.letters)
        self.buffer = buffer
        receiver: Receiver = buffer
        for number, components in enumerate(reversed(stages)):
            holds = any(is_holder(as_step(component, self.clock)) for component in components)
            if replicas > 1 and not holds:
                others = [
                    Link(f"{number}/{n}", LocalPeer(self._stage(components, ReplyLink()))) for n in range(replicas)
                ]
                receiver = Replicas(others, Link(f"{number}", LocalPeer(receiver), window=Window(join_events=0)))
            elif number % 2 and not any(stage._holdings.accepts_first for stage in self.stages):
                receiver = self._stage(components, LocalLink(f"{number}", receiver))
            else:
                link = Link(f"{number}", LocalPeer(receiver), window=Window(join_events=0))
                holds_behind = any(stage._holdings.accepts_first for stage in self.stages)
                receiver = self._stage(components, link, holds_behind=holds_behind)
        link = Link("ingest", LocalPeer(receiver), window=window or Window(1, gather_events=512, gather_turns=8))
        self.intake = Intake({}, None, link, Limits())

    def _stage(self, components: Sequence[object], link: Outgoing, *, holds_behind: bool = False) -> Stage:
        steps = [as_step(component, self.clock) for component in components]
        stage = Stage(steps, link, self.letters, self.clock, holds_behind=holds_behind)
        self.stages.append(stage)
        return stage

    async def start(self) -> None:
        self.buffer.start()
        for stage in self.stages:
            await stage.start()

    async def close(self) -> None:
        await self.intake.close()
        for stage in self.stages:
            await stage.close()
        await self.buffer.close()

    @property
    def totals(self) -> dict[str, int]:
        return {name: number for name, number in self.intake.counts._asdict().items() if number}


def events(*kinds: str, request: str = "") -> list[Event]:
    return [Event(id=f"{request}{n}", event_type=kind, source="s") for n, kind in enumerate(kinds)]


def admission(events: Sequence[Event]) -> Admission:
    return admit_events(events, "s", "", Limits())


def total(acks: Sequence[Ack]) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for ack in acks:
        numbers.update(told(ack))
    return dict(numbers)
