"""The answer to a pushed batch: it names the exceptions, all other events are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from polku.codes import Code

if TYPE_CHECKING:
    from polku.batch import Batch


class Refusal(NamedTuple):
    """Name one event that was not taken: its id, a code of the closed set, and a sentence for people.

    `attempts` is how often its delivery was tried. `position` is the event's index in the batch that is answered, which
    tells it from others: ids are text of strangers, may stand twice, and middleware may change them, so that `event_id`
    is only what the event was called where it was refused. -1: not known, or no event of a batch is meant.
    """

    event_id: str
    code: Code
    message: str
    attempts: int = 1
    position: int = -1


class Counts(NamedTuple):
    """Count events since the pipeline started, as `MiddlewareStats` has them."""

    rate_limited: int = 0
    sampled_out: int = 0
    deduplicated: int = 0
    filtered: int = 0
    overflowed: int = 0
    received: int = 0
    forwarded: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums, field by field."""
        return Counts(*map(int.__add__, self, other))

    def minus(self, other: Counts) -> Counts:
        """Return the differences, field by field: what was counted since `other`."""
        return Counts(*map(int.__sub__, self, other))


class Output(NamedTuple):
    """What a replica of a stage made of a batch.

    `origins` has for each event the positions of the events that it was made of; None: it is the event at the same
    place, counted from `start`.
    """

    batch: Batch
    origins: tuple[tuple[int, ...], ...] | None = None
    start: int = 0

    def inputs(self, position: int) -> tuple[int, ...]:
        """Return the positions of the events that the event at a position was made of."""
        return (self.start + position,) if self.origins is None else self.origins[position]

    def after(self, count: int) -> Output:
        """Return the same output of a batch in front of which `count` other events stand."""
        if self.origins is None:
            return self._replace(start=self.start + count)
        return self._replace(origins=tuple(tuple(count + place for place in own) for own in self.origins))


class Receipt(NamedTuple):
    """Answer a batch: the refused events, and how full the pipeline is.

    `counts` are running totals of everything between the answering actor and the buffer; `buffer_size` and
    `buffer_capacity` are events. A replica of a stage does not push on what it made of the batch: it is in `output`.
    """

    refused: tuple[Refusal, ...] = ()
    counts: Counts = Counts()
    buffer_size: int = 0
    buffer_capacity: int = 0
    output: tuple[Output, ...] = ()

    def part(self, start: int, count: int) -> Receipt:
        """Return the same receipt for `count` events of the batch from `start` on, as if they had come alone."""
        if not self.refused:
            return self
        return self._replace(refused=shifted([r for r in self.refused if start <= r.position < start + count], -start))


def shifted(refused: Iterable[Refusal], offset: int) -> tuple[Refusal, ...]:
    """Return refusals of events that stand `offset` places further on in another batch."""
    if not offset:
        return tuple(refused)
    return tuple(refusal._replace(position=refusal.position + offset) for refusal in refused)


def located(refused: Sequence[Refusal], batch: Batch) -> tuple[Refusal, ...]:
    """Return one refusal for each refused event of a batch, by rising position.

    One that names only an id means every event that is called so; where none is, it means all of them: that an event
    is sent again costs less than one that is lost.
    """
    if not refused:
        return ()
    found = {refusal.position: refusal for refusal in reversed(refused) if 0 <= refusal.position < len(batch)}
    unplaced = [refusal for refusal in refused if refusal.position not in found]
    if unplaced:
        ids = batch.ids
        for refusal in unplaced:
            named = [position for position, event_id in enumerate(ids) if event_id == refusal.event_id]
            for position in named or range(len(ids)):
                found.setdefault(position, refusal._replace(position=position))
    return tuple(found[position] for position in sorted(found))


class Taken(NamedTuple):
    """Answer a batch whose events are held: its place in the window is free, its outcome comes later.

    The sender asks for the outcome with `settle` under the batch's own link identity.
    """


class Turn(NamedTuple):
    """Answer a push that asked to be worked on alone: it was not begun, and must come again.

    With `alone` its turn has come: nothing else is worked on until it has come, as a push that asks for the same, and
    is answered. Without, others are worked on at the same time, or may be from now on: it must come as any other.
    """

    alone: bool
