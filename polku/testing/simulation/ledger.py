"""What happened in a simulated world: written down by all its parts, read by the judge."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from polku.batch.batch import Batch, Identity
from polku.event.v1.event_pb2 import Event
from polku.testing.simulation.lineage import is_intact, lineage_of, root_of, tokens_of
from polku.v1.gateway_pb2 import EventPayload

_Content: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]  # an event's tokens, and the emitters that it goes to
_MADE = re.compile("#=[0-9a-f]+")


@dataclass(slots=True)
class Input:
    """One event as a client sent it, and the answers that it got; `doubtful` calls ended without an answer."""

    token: str
    event_id: str
    attempts: int = 0
    accepted: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    doubtful: int = 0
    resent: bool = False
    is_pulled: bool = False


@dataclass(slots=True)
class Call:
    """A unary call that was answered with an Ack: its client, its tokens, and what the Ack counts, by `Counts`."""

    client: str
    tokens: tuple[str, ...]
    counts: dict[str, int]


@dataclass(slots=True)
class Destination:
    """What one destination was given: tokens in the order of their first arrival, and what it did about them.

    `overtaken` may come after later ones: see `Ledger.overtake`.
    """

    name: str
    required: bool = True
    drops: str = ""
    attempts: int | None = None
    is_ordered: bool = True
    arrived: dict[str, int] = field(default_factory=dict)
    arrived_at: dict[str, float] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)
    overtaken: set[str] = field(default_factory=set)
    dropped: int = 0
    starts: dict[str, int] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)


class Ledger:
    """Keep what clients, code, buffer and destinations saw of each token."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._clock = clock
        self.taken_at: dict[str, float] = {}  # when a buffer had put each token, the first time; where it is `timed`
        self.is_timed = False
        self.inputs: dict[str, Input] = {}
        self.destinations: dict[str, Destination] = {}
        self.calls: list[Call] = []
        self.fates: dict[str, Counter[str]] = defaultdict(Counter)
        self.routes: dict[str, set[str]] = defaultdict(set)
        self.entered: Counter[str] = Counter()  # how often each token came to the buffer
        self.came_by: dict[str, str] = {}  # the lane of the buffer that each token came to the last time
        self.unroutable: set[str] = set()
        self.remade: set[str] = set()
        self.turned_away: set[str] = set()  # what a buffer had no room for, or could not write
        self.sent_ahead: set[str] = set()  # by an emitter, to learn whether its destination works
        self.whole: set[str] = set()  # of what has parts, what came to the buffer undivided the last time
        self._contents: dict[Identity, list[_Content]] = {}
        self.dropped: dict[str, set[str]] = defaultdict(set)
        self.same_id: dict[str, set[str]] = defaultdict(set)
        self.parts: dict[str, int] = {}
        self.bad: dict[str, str] = {}
        self.merged: dict[str, set[str]] = defaultdict(set)
        self.letters: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        self.kept: dict[str, set[str]] = defaultdict(set)
        self.excused: set[str] = set()
        self.excused_optional: set[str] = set()
        self.chance_deaths: Counter[str] = Counter()  # by part: those that no event has caused
        self.answered: dict[str, set[str]] = defaultdict(set)  # by process: what a buffer has answered about
        self.forgotten: set[str] = set()
        self.faults: list[str] = []
        self.counts: dict[str, int] = defaultdict(int)

    def fault(self, text: str) -> None:
        """Write down that a promise was broken."""
        if len(self.faults) < 20:
            self.faults.append(text)

    def count(self, what: str, number: int = 1) -> None:
        """Count something for the report."""
        self.counts[what] += number

    def fate(self, tokens: Sequence[str], counter: str) -> None:
        """Learn what an event counts as; one that was merged counts for the first of its inputs."""
        if tokens:
            self.fates[root_of(tokens[0])][counter] += 1

    def pushed(self, batch: Batch, known: Iterable[str]) -> None:
        """Learn what reached the buffer, and which emitters it goes to.

        Steps may make something else of a batch that comes again: what they make of it now is what counts.
        """
        everyone = set(known)
        events = EventPayload.FromString(batch.payload).events
        contents: list[_Content] = []
        for event in events:
            self.entered.update(tokens_of(event))
            self.fate(tokens_of(event), "forwarded")
            wanted = tuple(event.route_to) if batch.routes is None else batch.routes
            contents.append((tuple(tokens_of(event)), wanted))
        self._route(contents, everyone)
        if batch.identity is not None:
            self._compare(batch.identity._replace(origin=_MADE.sub("", batch.identity.origin)), contents)

    def taken_in(self, pieces: Sequence[Batch], known: Iterable[str]) -> None:
        """Learn which emitters what was pushed goes to when it is its turn: others may have come and gone meanwhile."""
        contents: list[_Content] = []
        for piece in pieces:
            for event in EventPayload.FromString(piece.payload).events:
                contents.append(
                    (tuple(tokens_of(event)), tuple(event.route_to) if piece.routes is None else piece.routes)
                )
        self._route(contents, set(known))

    def put(self, tokens: Iterable[str]) -> None:
        """Learn when a buffer had put events where each destination gets them from."""
        for token in tokens:
            self.taken_at.setdefault(token, self._clock())

    def _route(self, contents: Sequence[_Content], everyone: set[str]) -> None:
        for token in {token for tokens, _ in contents for token in tokens}:
            self.routes[token] = set()
        for tokens, wanted in contents:
            for token in tokens:
                self.whole.add(token)
                self.whole.difference_update(set(lineage_of(token)) - {token})
                self.routes[token] |= everyone & set(wanted) if wanted else everyone
                if set(wanted) - everyone:
                    self.unroutable.add(token)

    def _compare(self, identity: Identity, contents: list[_Content]) -> None:
        """Learn which events came in a batch of which something else was made another time."""
        first = self._contents.setdefault(identity, contents)
        if first != contents:
            self.count("batches made otherwise")
            self.remade.update(token for tokens, _ in (*first, *contents) for token in tokens)
            for token in [token for tokens, _ in contents for token in tokens]:
                self.dropped.pop(token, None)  # that it was dropped the first time excuses nothing

    def arrive(self, emitter: str, events: Iterable[Event]) -> None:
        """Learn what a destination has stored."""
        destination = self.destinations[emitter]
        for event in events:
            tokens = tokens_of(event)
            if not tokens or any(root_of(token) not in self.inputs for token in tokens):
                self.fault(f"invented: {event.id!r} arrived at {emitter}")
                continue
            if not is_intact(event):
                self.fault(f"corrupted: {tokens} arrived changed at {emitter}")
            for token in tokens:
                destination.arrived[token] = destination.arrived.get(token, 0) + 1
                destination.arrived_at.setdefault(token, self._clock())
            if len(tokens) > 1:
                self.merge(tokens)

    def merge(self, tokens: Sequence[str]) -> None:
        """Learn that events became one."""
        for token in tokens:
            self.merged[token].update(tokens)

    def letter(self, emitter: str, event: Event, code: str, reason: str) -> None:
        """Learn of a dead letter."""
        for token in tokens_of(event):
            self.letters[token].append((emitter, code, reason))
        if not tokens_of(event):
            self.fault(f"invented: a dead letter for {emitter!r} of {event.id!r} without a token")

    def keep(self, emitter: str, event: Event) -> None:
        """Learn that a dead letter is where it stays: until then it may die with its process."""
        for token in tokens_of(event):
            self.kept[token].add(emitter)

    def answer(self, buffer: str, tokens: Iterable[str]) -> None:
        """Learn that a buffer has answered about what was pushed to it."""
        self.answered[buffer].update(tokens)

    def forget(self, buffer: str) -> None:
        """Learn that a buffer in memory died, and with it what it had answered about."""
        self.forgotten |= self.answered.pop(buffer, set())

    def overtake(self) -> None:
        """Learn that a stage died: what a buffer had forgotten before may now come after later events.

        The stage had the buffer's answer about it, and handed on what came next. It died, and whoever gave it both has
        no answer about the first: that one is sent again, to a buffer that does not know it any more, but has had the
        next. Nobody knew of both deaths in time, and later is better than never.
        """
        for destination in self.destinations.values():
            destination.overtaken |= self.forgotten - destination.arrived.keys()

    def is_buried(self, token: str, emitter: str) -> bool:
        """Return whether there is a dead letter of it, for an emitter or for all."""
        return not self.kept.get(token, set()).isdisjoint(("", emitter))
