"""Deliver a batch that needs several messages: in order, up to the first that fails, halving what is too large."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, Self, TypeVar

from polku.contracts import Failure
from polku.errors import EmitError, RejectedError


class TooLargeError(RejectedError):
    """Say that the destination takes smaller messages only."""


class Part(Protocol):
    """What goes in one message."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids of its events, in order."""
        ...

    def halves(self) -> Sequence[Self]:
        """Return the two halves of a part of several events."""
        ...


P = TypeVar("P", bound=Part)


async def send_parts(parts: Sequence[P], send: Callable[[P], Awaitable[list[Failure]]]) -> list[Failure]:
    """Send one part after the other and return the failures.

    What comes behind a part that may be tried again is not sent before it. An error is raised only where nothing was
    decided about any event; otherwise what is left fails with the error's text, to be tried again alone.
    """
    left = deque(parts)
    failures: list[Failure] = []
    decided = False
    while left:
        part = left.popleft()
        try:
            failures += await send(part)
        except TooLargeError as error:
            if len(part.ids) > 1:
                left.extendleft(reversed(part.halves()))
                continue
            failures += fail(part.ids, error, retryable=False)
        except RejectedError as error:
            if not decided and not left:
                raise
            failures += fail(part.ids, error, retryable=False)
        except EmitError as error:
            if not decided:
                raise
            return failures + [failure for rest in (part, *left) for failure in fail(rest.ids, error, retryable=True)]
        decided = True
    return failures


def fail(ids: Sequence[str], reason: object, *, retryable: bool) -> list[Failure]:
    """Return a failure for each event."""
    text = str(reason)
    return [Failure(event_id, text, retryable) for event_id in ids]
