"""What a run came to: where each event went, and what became of those that went nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from polku.dead_letters import DeadLetter
from polku.event.v1.event_pb2 import Event
from polku.text import counted


class Dropped(NamedTuple):
    """An event that did not go on, as it was then, who dropped it, and why.

    `reason` is `filtered`, `sampled_out`, `rate_limited` or `deduplicated`; where an emitter's share of the buffer was
    full it is `overflowed`, and `middleware` is the emitter's name.
    """

    event: Event
    middleware: str
    reason: str


class Records:
    """What is written down while a pipeline runs: what emitters took, by their names, and what was dropped.

    `stirred` is set with each event that an emitter has taken or that has become a dead letter.
    """

    def __init__(self) -> None:
        self.taken: dict[str, list[Event]] = {}
        self.dropped: list[Dropped] = []
        self.stirred = asyncio.Event()

    def take(self, emitter: str, events: Sequence[Event]) -> None:
        """Note what an emitter has taken."""
        self.taken.setdefault(emitter, []).extend(events)
        self.stirred.set()


class Refused(NamedTuple):
    """An event that its sender was told is not in, as it was sent, with the code and the sentence of the `AckError`.

    `event` is None for a record of raw bytes that was no event, and for a message that was refused as a whole.
    """

    event: Event | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Say what became of the events: `delivered` has a list for each emitter, in the order of arrival.

    Events that middleware or a destination refused permanently are in `dead`; where the sender was told, they are in
    `refused` too. `held` has, by emitter, what was not delivered when the time for it was up. `sent` are the events as
    they came in, raw bytes left out. `seconds` are those that seemed to pass.
    """

    delivered: Mapping[str, Sequence[Event]]
    dropped: Sequence[Dropped] = ()
    dead: Sequence[DeadLetter] = ()
    refused: Sequence[Refused] = ()
    held: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    sent: Sequence[Event] = ()
    seconds: float = 0.0

    @property
    def events(self) -> list[Event]:
        """The delivered events, each id once, whichever emitter got it."""
        found = {event.id: event for events in self.delivered.values() for event in events}
        return list(found.values())

    def ids(self, emitter: str) -> list[str]:
        """Return the ids of the events that an emitter got."""
        if emitter not in self.delivered:
            known = ", ".join(map(repr, self.delivered))
            raise KeyError(f"there is no emitter {emitter!r}; known are {known}")
        return [event.id for event in self.delivered[emitter]]

    def to(self, event_id: str) -> list[str]:
        """Return the names of the emitters that got an event."""
        return [name for name, events in self.delivered.items() if any(event.id == event_id for event in events)]

    def fate(self, event_id: str) -> str:
        """Return in a sentence what became of an event."""
        return "; ".join(self._fates(event_id)) or "nothing is known of it"

    def _fates(self, event_id: str) -> Iterator[str]:
        if names := self.to(event_id):
            yield f"delivered to {', '.join(names)}"
        for event, middleware, reason in self.dropped:
            if event.id == event_id:
                yield f"dropped by {middleware} ({reason})"
        for letter in self.dead:
            if letter.event.id == event_id:
                yield f"dead letter{f' of {letter.emitter}' if letter.emitter else ''}: {letter.code}: {letter.reason}"
        for refused in self.refused:
            if refused.event is not None and refused.event.id == event_id:
                yield f"refused: {refused.code}: {refused.message}"
        for name, events in self.held.items():
            if any(event.id == event_id for event in events):
                yield f"not delivered to {name} in time"

    def __str__(self) -> str:
        """Return a line for each emitter, and one for each event that was not delivered."""
        lines = [f"{name}: {counted(len(events), 'event')}" for name, events in self.delivered.items()]
        lines += [f"dropped by {middleware} ({reason}): {event.id}" for event, middleware, reason in self.dropped]
        lines += [f"dead letter: {one.event.id}: {one.code}: {one.reason}" for one in self.dead]
        for event, code, message in self.refused:
            lines.append(f"refused: {event.id if event is not None else 'a message'}: {code}: {message}")
        lines += [f"not delivered to {name}: {event.id}" for name, events in self.held.items() for event in events]
        return "\n".join(lines)
