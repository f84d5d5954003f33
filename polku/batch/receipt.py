"""The answer to a pushed batch: it names the exceptions, all other events are in."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from polku.codes import Code

if TYPE_CHECKING:
    from polku.batch.batch import Batch


T = TypeVar("T")

Fate: TypeAlias = "tuple[int, str, int]"
"""What an event counts as, of a batch that wants to know: its position, a field of `Counts`, how often.

One of which nothing is said has been forwarded once: of one that was filtered are said `(position, "filtered", 1)` and
`(position, "forwarded", -1)`. A plain tuple, since it is pickled at each hop in a quarter of the time.
"""

_PLACE = itemgetter(0)
_AGAIN = frozenset({Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING})


class Refusal(NamedTuple):
    """Name one event that was not taken: its id, a code of the closed set, and a sentence for people.

    `attempts` is how often its delivery was tried. `position` is the event's index in the batch that is answered, which
    tells it from others: ids are text of strangers, may appear twice, and middleware may change them: `event_id` is
    only what the event was called where it was refused. -1: not known, or no event of a batch is meant. `letter`:
    the event, or what it had become, is a dead letter that is stored. `detail` is what that has besides the sentence,
    such as a traceback.
    """

    event_id: str
    code: Code
    message: str
    attempts: int = 1
    position: int = -1
    letter: bool = False
    detail: str = ""


class Counts(NamedTuple):
    """Count events, as `MiddlewareStats` has them: since the pipeline started, or those of one request."""

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
    place, counted from `start`. `owners` has, where the batch wants fates, which of those each event counts for.
    """

    batch: Batch
    origins: tuple[tuple[int, ...], ...] | None = None
    start: int = 0
    owners: tuple[int, ...] | None = None

    def inputs(self, position: int) -> tuple[int, ...]:
        """Return the positions of the events that the event at a position was made of."""
        return (self.start + position,) if self.origins is None else self.origins[position]

    def owner(self, position: int) -> int:
        """Return the position of the event that the event at a position counts for."""
        return self.inputs(position)[0] if self.owners is None else self.owners[position]

    def after(self, count: int) -> Output:
        """Return the same output of a batch in front of which `count` other events stand."""
        owners = None if self.owners is None else tuple(count + place for place in self.owners)
        if self.origins is None:
            return self._replace(start=self.start + count, owners=owners)
        origins = tuple(tuple(count + place for place in own) for own in self.origins)
        return self._replace(origins=origins, owners=owners)


class Receipt(NamedTuple):
    """Answer a batch: the refused events, and how full the pipeline is.

    `counts` are running totals of everything between the answering actor and the buffer; `buffer_size` and
    `buffer_capacity` are events. A replica of a stage does not push on what it made of the batch: it is in `output`.
    `fates` are those of a batch that wants them, by rising position. `own` are the totals of a partition of a stage,
    which are not in `counts`: what is behind it is behind the others too.
    """

    refused: tuple[Refusal, ...] = ()
    counts: Counts = Counts()
    buffer_size: int = 0
    buffer_capacity: int = 0
    output: tuple[Output, ...] = ()
    fates: tuple[Fate, ...] = ()
    own: Counts = Counts()

    def piece(self, start: int, count: int) -> Receipt:
        """Return the same receipt for `count` events of the batch from `start` on, as if they had come alone."""
        if not (self.refused or self.fates):
            return self
        refused = shifted([r for r in self.refused if start <= r.position < start + count], -start)
        first, end = (bisect_left(self.fates, place, key=_PLACE) for place in (start, start + count))
        return self._replace(refused=refused, fates=moved(self.fates[first:end], -start))

    def without_events(self) -> Receipt:
        """Return what the receipt says of the pipeline, and nothing of the events of its batch."""
        if not (self.refused or self.output or self.fates):
            return self
        return self._replace(refused=(), output=(), fates=())

    def counts_of(self, events: int) -> Counts:
        """Return the counts of a batch of that many events, by the fates that this receipt has."""
        if not self.fates:
            return Counts(received=events, forwarded=events)
        counts = {"received": events, "forwarded": events}
        for _, what, number in self.fates:
            counts[what] = counts.get(what, 0) + number
        return Counts(**counts)


def joining(receipts: Iterable[tuple[int, Receipt]]) -> Generator[None, None, Receipt]:
    """Return the receipt of a batch that was pushed in pieces, from the events of each piece and its receipt."""
    start, refused, fates, last = 0, list[Refusal](), list[Fate](), Receipt()
    for count, last in receipts:
        if refused or fates:
            yield
        refused += shifted(last.refused, start)
        fates += moved(last.fates, start)
        start += count
    return last._replace(refused=tuple(refused), fates=tuple(fates))


def numbers_of(receipt: Receipt) -> tuple[Counts, int, int]:
    """Return what a receipt says of the pipeline, and not of the batch: counts, size and capacity of the buffer."""
    return receipt.counts, receipt.buffer_size, receipt.buffer_capacity


def shifted(refused: Iterable[Refusal], offset: int) -> tuple[Refusal, ...]:
    """Return refusals of events that stand `offset` places further on in another batch."""
    if not offset:
        return tuple(refused)
    return tuple(refusal._replace(position=refusal.position + offset) for refusal in refused)


def moved(fates: Iterable[Fate], offset: int) -> tuple[Fate, ...]:
    """Return the fates of events that stand `offset` places further on in another batch."""
    if not offset:
        return tuple(fates)
    return tuple([(position + offset, what, number) for position, what, number in fates])


def weightier(known: Refusal | None, refusal: Refusal) -> Refusal:
    """Return which of two refusals of one event counts: the one that is worth sending again, else the one known first.

    Of such an event something is not in, and no dead letter either. Of others the one counts that left no letter.
    """
    return refusal if known is None or _weight(refusal) > _weight(known) else known


def _weight(refusal: Refusal) -> tuple[bool, bool]:
    return refusal.code in _AGAIN, not refusal.letter


def located(refused: Sequence[Refusal], batch: Batch) -> tuple[Refusal, ...]:
    """Return one refusal for each refused event of a batch, by rising position.

    One that names only an id means every event that is called so; where none is, it means all of them: that an event
    is sent again costs less than one that is lost.
    """
    if not refused:
        return ()
    found: dict[int, Refusal] = {}
    unplaced = []
    for refusal in refused:
        if 0 <= refusal.position < len(batch):
            found[refusal.position] = weightier(found.get(refusal.position), refusal)
        else:
            unplaced.append(refusal)
    if unplaced:
        for positions, refusal in _by_id(unplaced, batch.ids):
            for position in positions:
                found[position] = weightier(found.get(position), refusal._replace(position=position))
    return tuple(found[position] for position in sorted(found))


def _by_id(refused: Sequence[Refusal], ids: Sequence[str]) -> Iterator[tuple[Sequence[int], Refusal]]:
    """Yield refusals with the positions that their ids mean; none that weighs no more than one before it of these."""
    places: dict[str, list[int]] = {}
    for position, event_id in enumerate(ids):
        places.setdefault(event_id, []).append(position)
    told: dict[str | None, Refusal] = {}
    for refusal in refused:
        name = refusal.event_id if refusal.event_id in places else None
        known = told.get(name)
        if known is None or _weight(refusal) > _weight(known):
            told[name] = refusal
            yield range(len(ids)) if name is None else places[name], refusal


class Accepted:
    """Answer to a batch whose events are held: its place in the window is free, its receipt comes later."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Awaitable[Receipt]) -> None:
        self._outcome = outcome

    def outcome(self) -> Awaitable[Receipt]:
        """Return what is awaited for the receipt; raises `UnavailableError` there where nobody knows it."""
        return self._outcome


Answer: TypeAlias = Receipt | Accepted
"""What every `push` returns: the receipt, or that the batch is held and its receipt comes later."""


async def outcome_of(answer: Answer) -> Receipt:
    """Return the receipt of a batch, once it is there."""
    return answer if isinstance(answer, Receipt) else await answer.outcome()


class Deferred:
    """An awaitable that calls a function when it is awaited, and not before."""

    __slots__ = ("_argument", "_call")

    def __init__(self, call: Callable[[T], Coroutine[Any, Any, Receipt]], argument: T) -> None:
        self._call: Callable[[Any], Coroutine[Any, Any, Receipt]] = call
        self._argument = argument

    def __await__(self) -> Generator[Any, Any, Receipt]:
        return self._call(self._argument).__await__()


class Turn(NamedTuple):
    """Answer a push that asked to be worked on alone: it was not begun, and must come again.

    With `alone` its turn has come: nothing else is worked on until it has come, as a push that asks for the same, and
    is answered. Without, others are worked on at the same time, or may be from now on: it must come as any other.
    """

    alone: bool
