"""Deliver a batch that needs several messages: in order, up to the first that fails, halving what is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, Self, TypeVar

from polku.batch.batch import Batch
from polku.contracts import Failure
from polku.emit.progress import Progress, current
from polku.errors import EmitError, RejectedError, RetryableError
from polku.text import line, said

_REFUSED_ALONE = 16  # parts in a row after which a destination is taken to refuse all of a kind
_FAILED_ALONE = 4  # parts in a row after which its code is taken to fail for all


class TooLargeError(RejectedError):
    """Say that the destination takes smaller messages only."""


class RefusedPartError(RejectedError):
    """Say that the destination refuses a message permanently, perhaps because of one of its events."""


class FaultyPartError(RetryableError):
    """Say that the destination's code fails, perhaps because of one of the events of a message.

    `is_of_event` says that it takes others meanwhile.
    """

    is_of_event = False


class LateError(RetryableError):
    """Say that no answer came in time, for which too many events at once may be the reason."""


class MessagePart(Protocol):
    """What goes in one message."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of its events, in order."""
        ...

    @property
    def positions(self) -> Sequence[int]:
        """Where its events are in the batch."""
        ...

    def halves(self) -> Sequence[Self]:
        """Return the two halves of a part of several events."""
        ...


class BatchPart:
    """The part that is some events of a batch as they are."""

    def __init__(self, batch: Batch, positions: range) -> None:
        self.batch = batch
        self.positions = positions

    @property
    def ids(self) -> list[str]:
        """The ids of its events, in order."""
        return self.batch.ids

    def halves(self) -> list[BatchPart]:
        """Return the two halves of a part of several events."""
        middle = len(self.batch) // 2
        first, second = self.batch.split(middle)
        return [BatchPart(first, self.positions[:middle]), BatchPart(second, self.positions[middle:])]


P = TypeVar("P", bound=MessagePart)


async def send_parts(
    parts: Sequence[P], send: Callable[[P], Awaitable[list[Failure]]], *, progress: Progress | None = None
) -> list[Failure]:
    """Send one part after the other and return the failures, with their positions in the batch.

    A part that is refused with `RefusedPartError` is sent in halves, until the events at fault are known; where many
    in a row are refused alone, the parts that follow fail as a whole, until one is taken. So are those that fail with
    `FaultyPartError`, but what fails alone may be tried again, and is passed: others are not held up by it.

    `send` may give the position of a failure in the part; without, its id counts. What comes behind a part that may be
    tried again is not sent before it. An error is raised only where nothing was decided about any event; otherwise what
    is left fails with the error's text, to be tried again alone. What is decided is noted in the call's `Progress`.
    """
    progress = progress or current()
    left = deque(parts)
    failures: list[Failure] = []
    decided = False
    alone = 0
    while left:
        part = left.popleft()
        progress.step()
        try:
            failed = await send(part)
            refused = place(failed, part.ids, part.positions) if failed else failed  # `ids` may have to be decoded
        except RejectedError as error:
            if _is_divisible(part, error, alone):
                left.extendleft(reversed(part.halves()))
                continue
            alone += isinstance(error, RefusedPartError)
            if not decided and not failures and not left and not isinstance(error, TooLargeError):
                raise
            refused = fail(part, error, retryable=False)
        except FaultyPartError as error:
            if len(part.positions) > 1 and alone < _FAILED_ALONE:
                left.extendleft(reversed(part.halves()))
                continue
            alone += not error.is_of_event
            progress.stopped(error)
            failures += fail(part, error, retryable=True, attempts=int(len(part.positions) == 1))
            continue
        except EmitError as error:
            if not decided:
                raise
            progress.stopped(error)
            failures += fail(part, error, retryable=True)
            return failures + [failure for rest in left for failure in fail(rest, error, retryable=True, attempts=0)]
        alone = 0 if len(refused) < len(part.positions) else alone
        progress.settle(part.positions, refused)
        failures += refused
        decided = True
    return failures


def _is_divisible(part: MessagePart, error: RejectedError, alone: int) -> bool:
    """Return whether a part is sent in halves, after `alone` in a row that were refused as they were."""
    is_doubtful = isinstance(error, RefusedPartError) and alone < _REFUSED_ALONE
    return (is_doubtful or isinstance(error, TooLargeError)) and len(part.positions) > 1


def fail(part: MessagePart, reason: object, *, retryable: bool, attempts: int = 1) -> list[Failure]:
    """Return a failure for each event of a part."""
    text = said(reason) if isinstance(reason, BaseException) else line(reason)
    pairs = zip(part.ids, part.positions, strict=True)
    return [Failure(event_id, text, retryable, attempts, position) for event_id, position in pairs]


def place(failures: Sequence[Failure], ids: Sequence[str], positions: Sequence[int]) -> list[Failure]:
    """Return failures with their positions in the batch; one that has none is about every event of its id.

    `ids` and `positions` are those of the events that the failures are about.
    """
    if not failures:
        return []
    placed: list[Failure] = []
    for failure in failures:
        if failure.position >= 0:
            where = positions[failure.position]
            placed.append(failure if where == failure.position else failure._replace(position=where))
        else:
            pairs = zip(ids, positions, strict=True)
            placed += [failure._replace(position=where) for event_id, where in pairs if event_id == failure.event_id]
    return placed
