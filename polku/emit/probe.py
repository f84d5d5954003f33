"""Try another event where all that is sent fails: is it these events, or is it the destination?"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from polku.batch.batch import Batch
from polku.emit.behind import WaitingBatches, behind, spread
from polku.emit.remainder import Remainder

_ROUNDS = 3  # attempts in a row of which nothing is taken, before an event is sent ahead of others


class Probe:
    """Send one event ahead of others, each time another one, of the same batch or of those that wait behind it.

    A destination that takes it works, so that it is the events before it that fail. It is not sent again then. One that
    is down takes it no more than the others; the order of events is in question only where it comes back between two
    sends.
    """

    def __init__(self) -> None:
        self._number = 0
        self.works = False  # the latest probe was taken
        self._doubt = contextlib.ExitStack()

    def events(self, rest: Remainder) -> int:
        """Return how many events there are to choose from, with those that fail."""
        return len(rest.left) + behind().events

    def end(self) -> None:
        """Let batches wait again: nothing is in doubt."""
        self.works = False
        self._doubt.close()

    async def send(self, rest: Remainder, attempts: int, send: Callable[[Batch], Awaitable[bool]]) -> bool:
        """Send one event ahead after `attempts` in a row without progress; return whether the destination took it.

        One of a batch that waits is tried first: it is the likelier to be of another kind.
        """
        if attempts < _ROUNDS and not self.works:
            return False
        waiting = behind()
        self._doubt.close()
        self._doubt.enter_context(waiting.doubting())
        self._number += 1
        self.works = await self._send_waiting(waiting, send) or await self._send_own(rest, send)
        return self.works

    async def _send_waiting(self, waiting: WaitingBatches, send: Callable[[Batch], Awaitable[bool]]) -> bool:
        if not waiting.events:
            return False
        later, position = waiting.at(spread(self._number, waiting.events))
        if not await send(later.batch.select([position])):
            return False
        later.taken.add(position)
        return True

    async def _send_own(self, rest: Remainder, send: Callable[[Batch], Awaitable[bool]]) -> bool:
        others = rest.left[1:]
        if not others:
            return False
        position = others[spread(self._number, len(others))]
        if not await send(rest.select([position])):
            return False
        rest.settle([position], {}, counts=False)
        return True
