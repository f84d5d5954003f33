"""The answer to a pushed batch: it names the exceptions, all other events are in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

from polku.codes import Code

if TYPE_CHECKING:
    from polku.batch import Batch


class Refusal(NamedTuple):
    """Name one event that was not taken: its id, a code of the closed set, and a sentence for people.

    `attempts` is how often its delivery was tried.
    """

    event_id: str
    code: Code
    message: str
    attempts: int = 1


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


class Receipt(NamedTuple):
    """Answer a batch: the refused events, and how full the pipeline is.

    `counts` are running totals of everything between the answering actor and the buffer; `buffer_size` and
    `buffer_capacity` are events. A replica of a stage does not push on what it made of the batch: it is in `output`.
    """

    refused: tuple[Refusal, ...] = ()
    counts: Counts = Counts()
    buffer_size: int = 0
    buffer_capacity: int = 0
    output: tuple[Batch, ...] = ()

    def about(self, ids: Collection[str]) -> Receipt:
        """Return the same receipt with the refusals of these events only."""
        if not self.refused:
            return self
        return self._replace(refused=tuple(refusal for refusal in self.refused if refusal.event_id in ids))

    def refusing(self, refusals: Iterable[Refusal]) -> Receipt:
        """Return the same receipt with further refusals in front."""
        more = tuple(refusals)
        return self._replace(refused=more + self.refused) if more else self


class Taken(NamedTuple):
    """Answer a batch whose events are held: its place in the window is free, its outcome comes later.

    The sender asks for the outcome with `settle` under the batch's own link identity.
    """
