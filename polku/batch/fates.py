"""What each event of a batch counts as, so that a request hears of its own events and of no others.

Batches hold events of several requests, and steps drop, split and merge them. An event that goes on counts for one of
those that it was made of: so what all requests are told adds up to what the pipeline has counted. One that was made of
many (an aggregate) counts for the first of them; the others then count as neither forwarded nor dropped.

Where a step does not say what it made of what, an event counts for the given one of its id, if just one has that; else
for the first that no event counts for yet; else for the same as the event before it. That may be another request's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from polku.batch.lineage import by_unique_id, origins
from polku.batch.receipt import Fate
from polku.event.v1.event_pb2 import Event

if TYPE_CHECKING:
    from polku.contracts import Outcome


class Attribution(Struct, frozen=True):
    """For each event that went on whom it counts for, by position (None: the one at its own place), and what is left.

    `own` says what the given events count as, beside what those that count for them do; `gone` of them were dropped.
    """

    owners: Sequence[int] | None
    own: Sequence[Fate] = ()
    gone: int = 0

    def trace_back(self, fates: Sequence[Fate]) -> Sequence[Fate]:
        """Return the fates of what was given, in no order, from those of what went on."""
        if self.owners is None:
            return fates
        owners = self.owners
        return [*self.own, *[(owners[position], what, number) for position, what, number in fates]]


def account(given: Sequence[Event], outcome: Outcome, reason: str) -> Attribution:
    """Return the account of a step, which drops events for this `reason`."""
    if outcome.events is given and outcome.origins is None and not outcome.refused:
        return Attribution(None)
    owners = _owners(given, outcome)
    dead = {refusal.refusal.position for refusal in outcome.refused}
    going = Counter(owners)
    own = _extra(going, len(given))
    gone = [(position, reason, 1) for position in range(len(given)) if not (position in going or position in dead)]
    return Attribution(owners, [*own, *gone], len(gone))


def merged(events: int, parts: int) -> Attribution:
    """Return the account of a holder that made a number of events out of a number of parts."""
    owners = [position if position < parts else 0 for position in range(events)]
    return Attribution(owners, _extra(Counter(owners), parts))


def owners_through(accounts: Sequence[Attribution], count: int) -> tuple[int, ...] | None:
    """Return which of those given to the first of several steps each of `count` events counts for; None: as there."""
    owners: tuple[int, ...] | None = None
    for passed in reversed(accounts):
        if passed.owners is not None:
            owners = tuple(passed.owners[position] for position in owners or range(count))
    return owners


def _extra(going: Counter[int], count: int) -> list[Fate]:
    numbers = ((position, going.get(position, 0)) for position in range(count))
    return [(position, "forwarded", number - 1) for position, number in numbers if number != 1]


def _owners(given: Sequence[Event], outcome: Outcome) -> list[int]:
    """Choose one source for each event that goes on."""
    sources = origins(given, outcome, range(len(outcome.events)))
    owners = [own[0] if len(own) == 1 else -1 for own in sources]
    if -1 not in owners:
        return owners
    by_id = by_unique_id(range(len(given)), given)
    for position, (event, own) in enumerate(zip(outcome.events, sources, strict=True)):
        named = by_id.get(event.id, -1)
        if owners[position] < 0 and own[0] <= named <= own[-1]:
            owners[position] = named
    taken = set(owners)
    rests: dict[int, Iterator[int]] = {}  # by the identity of the tuple: many events may share a long one
    for position, own in enumerate(sources):
        if owners[position] < 0:
            rest = rests.setdefault(id(own), iter(own))
            before = owners[position - 1] if position else -1
            otherwise = before if own[0] <= before <= own[-1] else own[0]
            owners[position] = next((place for place in rest if place not in taken), otherwise)
            taken.add(owners[position])
    return owners
