"""Keep an order among pieces of work that run at the same time."""

from __future__ import annotations

import asyncio


class Sequencer:
    """Let holders of tickets pass one after another, in the order in which the tickets were taken."""

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    def take(self) -> Ticket:
        """Queue up behind all tickets that were taken before."""
        ticket = Ticket(self._last)
        self._last = ticket.passed
        return ticket

    @property
    def is_over(self) -> bool:
        """Whether every ticket that was taken is done with."""
        return self._last is None or self._last.done()

    async def all_over(self) -> None:
        """Return when every ticket that was taken is done with."""
        await _passed(self._last)


class Ticket:
    """One place in the order: `wait` returns when it comes, `done` lets the next one come."""

    def __init__(self, before: asyncio.Future[None] | None) -> None:
        self._before = before
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Return when every ticket before this one is done with."""
        await _passed(self._before)
        self._before = None

    def done(self) -> None:
        """Let the next one come, as soon as all before this one are done with."""
        if self._before is None or self._before.done():
            self._finish(None)
        else:
            self._before.add_done_callback(self._finish)

    def _finish(self, _: object) -> None:
        if not self.passed.done():
            self.passed.set_result(None)


async def _passed(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        await asyncio.wait((future,))
