"""Turns of a receiver, in each of which it works on one batch that may kill it, and on nothing else.

Several senders feed one receiver, and each only knows that it died: to tell whose batch did it, a batch under suspicion
is worked on alone. Its push asks for a turn. Nothing else is begun from then on; when what was begun before is done,
the sender is told that its turn has come, and pushes again. When the work is done, or has taken too long (others are
waiting), it is told that it is no longer alone, and pushes once more to hear the answer: only then the turn ends. So
the receiver died of this batch if it died between the sender's hearing of the one and of the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from msgspec import Struct

from polku.aio.tasks import TaskSet
from polku.batch.receipt import Turn
from polku.log import RepeatedLog
from polku.text import named
from polku.usercode import as_exception

_REPEATED = RepeatedLog(logging.getLogger(__name__))


class Patience(Struct, frozen=True):
    """Bound in seconds the parts of a turn, in which nothing else is begun.

    `quiet` until what was begun before is done, `push` until the batch comes again (twice), `work` on it, and `held`
    from when the receiver was told to release what it holds until that is answered.
    """

    quiet: float = 5.0
    push: float = 5.0
    work: float = 10.0
    held: float = 1.0


class Key(Struct, frozen=True):
    """Name a batch at its receiver."""

    link: str
    epoch: int
    seq: int


class Work:
    """What a receiver is at: batches that it works on, and outcomes of those that it holds."""

    def __init__(self, flush: Callable[[], Awaitable[None]] | None) -> None:
        self._flush = flush
        self._tasks: set[asyncio.Future[None]] = set()
        self._held: set[asyncio.Future[Any]] = set()

    def begin(self, applying: asyncio.Future[None]) -> None:
        """Count in a batch that is worked on."""
        if not applying.done():
            self._tasks.add(applying)
            applying.add_done_callback(self._tasks.discard)

    def hold(self, outcome: asyncio.Future[Any]) -> None:
        """Count in a batch that is held."""
        self._held.add(outcome)
        outcome.add_done_callback(self._held.discard)

    async def wait_done(self, applying: Collection[asyncio.Future[None]] | None, seconds: float) -> bool:
        """Return whether some batches, or all, are done within a time."""
        waits = set(self._tasks if applying is None else applying)
        return not waits or not (await asyncio.wait(waits, timeout=seconds))[1]

    async def release(self, patience: Patience) -> None:
        """Have the receiver release what it holds, and give it some time for that.

        What is held for longer than that is not worked on here: it waits for what comes next.
        """
        if self._held and self._flush is not None:
            flushing = asyncio.ensure_future(self._flush())
            self.begin(flushing)  # never cancelled: it has taken events out already
            flushing.add_done_callback(_log_failure)
            await asyncio.wait((flushing,), timeout=patience.work)
        if self._held:
            await asyncio.wait(set(self._held), timeout=patience.held)


class _Held:
    """The turn of one batch."""

    def __init__(self, key: Key) -> None:
        self.key = key
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[asyncio.Future[None] | None] = loop.create_future()
        self.worked = asyncio.Event()
        self.heard: asyncio.Future[None] = loop.create_future()


class Quarantine:
    """Give turns, one after the other; `reopen` is called after each: what had to wait may begin."""

    def __init__(self, work: Work, reopen: Callable[[], None], patience: Patience) -> None:
        self._work = work
        self._reopen = reopen
        self._patience = patience
        self._one = asyncio.Lock()
        self._is_shut = False
        self._turn: _Held | None = None
        self._asked: dict[Key, asyncio.Future[Turn]] = {}
        self._tasks = TaskSet("quarantine")

    def admits(self, key: Key) -> bool:
        """Return whether work on a batch may begin."""
        return not self._is_shut or self.has_turn(key)

    def has_turn(self, key: Key) -> bool:
        """Return whether it is this batch's turn."""
        return self._turn is not None and self._turn.key == key

    async def ask(self, key: Key) -> Turn:
        """Wait for a turn."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.get_running_loop().create_future()
            self._tasks.start("turn", self._give_turn(key, asked))
        return await asyncio.shield(asked)

    def begin(self, key: Key, applying: asyncio.Future[None]) -> None:
        """Hear that work on a batch has begun."""
        if self._turn is not None and self._turn.key == key and not self._turn.begun.done():
            self._turn.begun.set_result(applying)

    def end(self, key: Key) -> None:
        """End the turn of a batch that failed."""
        if self._turn is not None and self._turn.key == key and not self._turn.begun.done():
            self._turn.begun.set_result(None)
        self.hear(key)

    async def wait_worked(self, key: Key) -> None:
        """Return when a batch need not be alone any longer."""
        if self._turn is not None and self._turn.key == key:
            await self._turn.worked.wait()

    def hear(self, key: Key) -> None:
        """Hear that the sender of a batch knows that it is no longer alone."""
        if self._turn is not None and self._turn.key == key and not self._turn.heard.done():
            self._turn.heard.set_result(None)

    async def _give_turn(self, key: Key, asked: asyncio.Future[Turn]) -> None:
        async with self._one:
            self._is_shut = True
            try:
                is_quiet = await self._work.wait_done(None, self._patience.quiet)
                if is_quiet:
                    await self._work.release(self._patience)
                    self._turn = _Held(key)
                del self._asked[key]
                asked.set_result(Turn(alone=is_quiet))
                if self._turn is not None:
                    await self._watch(self._turn)
            except BaseException as error:
                if not asked.done():
                    self._asked.pop(key, None)
                    asked.set_exception(as_exception(error))
                raise
            finally:
                self._turn = None
                self._is_shut = False
                self._reopen()

    async def _watch(self, turn: _Held) -> None:
        """Return when a turn is over."""
        await asyncio.wait((turn.begun,), timeout=self._patience.push)
        applying = turn.begun.result() if turn.begun.done() else None
        if applying is not None and await self._work.wait_done((applying,), self._patience.work):
            await self._work.release(self._patience)
        turn.worked.set()
        if applying is not None:
            await asyncio.wait((turn.heard,), timeout=self._patience.push)


def _log_failure(flushing: asyncio.Future[None]) -> None:
    if not flushing.cancelled() and (error := flushing.exception()) is not None:
        _REPEATED.error("release", "what is held could not be released: %s", named(error))
