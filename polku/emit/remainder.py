"""What is left of a batch that is being delivered: each event by its position, since ids may appear twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polku.batch.batch import Batch
from polku.contracts import Failure
from polku.emit.retry import Retry


class Remainder:
    """Keep the positions that are left, how often each was tried, and the failures that are final."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.left: Sequence[int] = range(len(batch))
        self.final: list[Failure] = []
        self.stopped_at: Sequence[int] = ()  # the positions of the latest call that raised
        self.passed: list[int] = []  # the positions that failed alone in the latest attempt, and did not end it
        self.failed_alone = 0  # events that were given up one by one since something was confirmed
        self.has_moved = False  # whether something was confirmed since this was last set to False
        self.answered_wrong: set[int] = set()  # positions in calls that were answered with nonsense
        self._failed: dict[int, Failure] = {}  # of what is left: the latest failure, with all attempts so far
        self._counted: dict[int, int] = {}  # the attempts among them that count

    def select(self, positions: Sequence[int]) -> Batch:
        """Return the events at these positions."""
        return self._batch if len(positions) == len(self._batch) else self._batch.select(positions)

    def ids(self, positions: Sequence[int]) -> list[str]:
        """Return the ids of the events at these positions."""
        ids = self._batch.ids
        return [ids[position] for position in positions]

    def settle(self, positions: Sequence[int], failures: Mapping[int, Failure], *, counts: bool) -> None:
        """Take the answer to the events at these positions; failures go by the index among them.

        `counts` says whether this was one of the attempts after which an event is given up.
        """
        if len(failures) < len(positions):
            self.has_moved, self.failed_alone = True, 0
        if not failures and len(positions) == len(self.left):
            self.left = ()
            return
        gone = set(positions)
        for index, failure in failures.items():
            position = positions[index]
            before = self._failed.get(position)
            attempts = failure.attempts + (before.attempts if before is not None else 0)
            failure = failure._replace(attempts=attempts, position=position)
            if failure.retryable:
                self._counted[position] = self._counted.get(position, 0) + (failures[index].attempts if counts else 0)
                self._failed[position] = failure
                gone.discard(position)
            else:
                self.final.append(failure)
        self.left = [position for position in self.left if position not in gone]

    def note(self, positions: Sequence[int], outcomes: Mapping[int, Failure | None]) -> None:
        """Take what is known of a call that did not come to its end; outcomes go by the index among these events."""
        known = sorted(outcomes)
        failures = {n: failure for n, index in enumerate(known) if (failure := outcomes[index]) is not None}
        self.settle([positions[index] for index in known], failures, counts=False)

    def open(self, reason: str) -> list[Failure]:
        """Return a failure, `retryable`, for each event that is left."""
        ids = self._batch.ids if self.left else []
        return [Failure(ids[position], reason, attempts=0, position=position) for position in self.left]

    def exhausted(self, retry: Retry) -> list[int]:
        """Return the positions that were tried often enough."""
        if retry.attempts is None:
            return []
        return [position for position in self.left if retry.gives_up(self._counted.get(position, 0))]

    def wrong(self) -> list[int]:
        """Return the positions of what is left that were in calls answered with nonsense."""
        return [position for position in self.left if position in self.answered_wrong]

    def give_up(self, positions: Sequence[int]) -> None:
        """Make the latest failures of these events final."""
        gone = set(positions)
        self.final += [self._failed[position]._replace(retryable=False) for position in positions]
        self.left = [position for position in self.left if position not in gone]
