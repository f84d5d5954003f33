"""What one call of an emitter came to: the failures by position, and why it stopped."""

from __future__ import annotations

from msgspec import Struct

from polku.batch.batch import Batch
from polku.contracts import Failure
from polku.emit.parts import place
from polku.emit.progress import Progress


class CallResult(Struct, frozen=True):
    """What came of one call: the failures by position, and why it stopped if nothing more can be sent now.

    `counts` says whether it was one of the attempts after which events are given up.
    """

    failures: dict[int, Failure]
    error: Exception | None
    counts: bool


def by_position(batch: Batch, failures: list[Failure]) -> dict[int, Failure]:
    """Return failures by their positions in the batch."""
    return {failure.position: failure for failure in place(failures, batch.ids, range(len(batch)))}


def undecided(
    batch: Batch, progress: Progress, reason: str, *, retryable: bool, detail: str = ""
) -> dict[int, Failure]:
    """Return the failures of a call that raised: those noted before, and one for each event without an outcome."""
    outcomes = progress.outcomes
    failures = {place: failure for place, failure in outcomes.items() if failure is not None}
    for position, event_id in enumerate(batch.ids):
        if position not in outcomes:
            failures[position] = Failure(event_id, reason, retryable, position=position, detail=detail)
    return failures
