"""Which of the events that a step was given an event that goes on was made of.

When something further down refuses an event, those that it was made of are refused with it: their senders must learn
that they are not in. Where a step does not say what it made of what, it is found by looking: an object that was given
is itself, whatever its id is now; another one belongs to the given event of the same id, if just one of those that did
not come back, and no other new event, is called so; else to all that did not come back, or, if all did, to all of them.
So in doubt an event is refused that is in, and sent twice, and never the other way round.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, count, repeat
from operator import attrgetter
from typing import TYPE_CHECKING

from polku.batch.receipt import Refusal, weightier
from polku.event.v1.event_pb2 import Event

if TYPE_CHECKING:
    from polku.contracts import Outcome

_ID = attrgetter("id")


def trace_back(given: Sequence[Event], outcome: Outcome, refused: Mapping[int, Refusal]) -> dict[int, Refusal]:
    """Return the refusals of what a step was given, by position, from those of what it made of it."""
    found: dict[int, Refusal] = {}
    if refused:
        for position, sources in zip(refused, origins(given, outcome, refused), strict=True):
            for source in sources:
                found[source] = weightier(found.get(source), refused[position]._replace(position=source))
    for dead in outcome.refused:
        found[dead.refusal.position] = dead.refusal._replace(letter=True)
    return found


def origins(given: Sequence[Event], outcome: Outcome, positions: Iterable[int]) -> list[tuple[int, ...]]:
    """Return for each of these positions of what a step made the positions of what it was made of."""
    if outcome.origins is not None:
        return [outcome.origins[position] for position in positions]
    if outcome.events is given:
        return [(position,) for position in positions]
    return _found(given, outcome, positions)


def through(trail: Sequence[tuple[Sequence[Event], Outcome]], count: int) -> tuple[tuple[int, ...], ...] | None:
    """Return for each of `count` events that came out of several steps the positions of what went into the first.

    None where each is the one at its own place.
    """
    if all(outcome.events is given and outcome.origins is None for given, outcome in trail):
        return None
    sources: list[tuple[int, ...]] = [(position,) for position in range(count)]
    for given, outcome in reversed(trail):
        before = origins(given, outcome, range(len(outcome.events)))
        sources = [tuple(sorted({p for position in own for p in before[position]})) for own in sources]
    return tuple(sources)


def order_digest(trail: Sequence[tuple[Sequence[Event], Outcome]]) -> str:
    """Return a hexadecimal digest of which events that went into several steps came out of them, and where.

    It is empty where each is the one at its own place. What the events contain is nothing to it: of the same batch,
    given to the same steps another time, it is the same if answers about the one are right about the other, event by
    event.
    """
    changes = [_change(given, outcome) for given, outcome in trail]
    if not any(changes):
        return ""
    return hashlib.blake2b(b"".join(_sized(change) for change in changes), digest_size=8).hexdigest()


def _change(given: Sequence[Event], outcome: Outcome) -> bytes:
    """Return what a step did: nothing where each event that goes on is, or is made of, the one at its place."""
    if outcome.kept is not None:
        return outcome.kept if 0 in outcome.kept else b""
    if outcome.origins is not None:
        lengths = array("q", map(len, outcome.origins))
        places = array("q", chain.from_iterable(outcome.origins))
        is_in_place = set(lengths) <= {1} and _is_in_place(places, given)
        return b"" if is_in_place else lengths.tobytes() + places.tobytes()
    return b"" if outcome.events is given else _seen_change(given, outcome)


def _seen_change(given: Sequence[Event], outcome: Outcome) -> bytes:
    """Find by looking what a step did, as finely as `_found` does: a new event goes by the id that it has."""
    by_object = dict(zip(map(id, given), count()))
    places = array("q", map(by_object.get, map(id, outcome.events), repeat(-1)))
    new = [at for at, place in enumerate(places) if place < 0] if -1 in places else []
    if new:
        by_id = dict(zip(map(_ID, given), count()))
        for at in new:
            places[at] = by_id.get(outcome.events[at].id, -1)
    if _is_in_place(places, given):
        return b""
    dead = [refusal.refusal.position for refusal in outcome.refused] if new else []
    return b"".join([_sized(array("q", numbers).tobytes()) for numbers in (places, new, dead)])


def _is_in_place(places: array[int], given: Sequence[Event]) -> bool:
    return len(places) == len(given) and places == array("q", range(len(given)))


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


def _found(given: Sequence[Event], outcome: Outcome, positions: Iterable[int]) -> list[tuple[int, ...]]:
    places: dict[int, tuple[int, ...]] = {}
    for position, event in enumerate(given):  # an object may appear twice
        places[id(event)] = (*places.get(id(event), ()), position)
    back = {id(event) for event in outcome.events}
    dead = {refusal.refusal.position for refusal in outcome.refused}
    gone = [p for p, event in enumerate(given) if id(event) not in back and p not in dead]
    by_id = by_unique_id(gone, given)
    new = Counter(event.id for event in outcome.events if id(event) not in places)
    any_of_them = tuple(gone or range(len(given)))

    def sources(position: int) -> tuple[int, ...]:
        event = outcome.events[position]
        place = places.get(id(event))
        if place is not None:
            return place
        named = by_id.get(event.id) if new[event.id] == 1 else None
        return any_of_them if named is None else (named,)

    return [sources(position) for position in positions]


def by_unique_id(positions: Collection[int], given: Sequence[Event]) -> dict[str, int]:
    """Return the positions of the events whose id no other of them has."""
    counts = Counter(given[position].id for position in positions)
    return {given[position].id: position for position in positions if counts[given[position].id] == 1}
