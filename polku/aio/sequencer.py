"""Keep the order of a stream while several of its messages are being ingested at once."""

from __future__ import annotations

import asyncio


class Turns:
    """Give each message its turn, in the order in which they were taken; one of these belongs to one stream."""

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    def take(self) -> Turn:
        """Queue up behind what was taken before."""
        turn = Turn(self._last)
        self._last = turn.over
        return turn

    @property
    def is_over(self) -> bool:
        """Whether every turn that was taken is over."""
        return self._last is None or self._last.done()

    async def all_over(self) -> None:
        """Return when every turn that was taken is over."""
        await _done(self._last)


class Turn:
    """One message's place in the order: `come` waits for it, `end` lets the next one come."""

    def __init__(self, before: asyncio.Future[None] | None) -> None:
        self._before = before
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def come(self) -> None:
        """Return when every turn before this one is over."""
        await _done(self._before)
        self._before = None

    def end(self) -> None:
        """Let the next one come, as soon as all before this one are over."""
        if self._before is None or self._before.done():
            self._finish(None)
        else:
            self._before.add_done_callback(self._finish)

    def _finish(self, _: object) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def _done(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        await asyncio.wait((future,))
