"""The batches that wait behind the one that is being delivered, for whoever has to try others of their events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

from polku.aio.context import Within
from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Receipt

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly however many they are
_MOST = 32  # batches that are accepted before their turn, while it is in doubt whose fault it is
_MOST_BYTES = 64 * 1024 * 1024


class WaitingBatch:
    """A batch that waits for its turn, and the positions of its events that the destination has already.

    `news` is done once its sender need not wait: it has its outcome, or is accepted.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.taken: set[int] = set()
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self, _: object = None) -> None:
        """Let its sender wait no longer."""
        if not self.news.done():
            self.news.set_result(None)

    @property
    def left(self) -> list[int]:
        """The positions of the events that are still to be delivered."""
        return [position for position in range(len(self.batch)) if position not in self.taken]


class WaitingBatches:
    """The batches that wait for one emitter, in order.

    More than the link's window are there only while the emitter doubts whether these events are at fault or the
    destination is: then they are accepted, so that others come.
    """

    def __init__(self) -> None:
        self._batches: list[WaitingBatch] = []
        self._doubts = 0
        self._outcomes: set[asyncio.Future[Receipt]] = set()  # of batches that were accepted

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def events(self) -> int:
        """How many events are in them."""
        return sum(len(waiting.batch) - len(waiting.taken) for waiting in self._batches)

    @contextlib.contextmanager
    def doubting(self) -> Iterator[None]:
        """Accept what waits, and what comes to wait, for as long as this is open."""
        self._doubts += 1
        self._accept()
        try:
            yield
        finally:
            self._doubts -= 1

    def add(self, batch: Batch) -> WaitingBatch:
        """Take note of a batch that begins to wait."""
        self._batches.append(waiting := WaitingBatch(batch))
        self._accept()
        return waiting

    def remove(self, waiting: WaitingBatch) -> None:
        """Take note that it is a batch's turn, or that it waits no longer."""
        if waiting in self._batches:
            self._batches.remove(waiting)

    def at(self, index: int) -> tuple[WaitingBatch, int]:
        """Return the event at an index among all of them: its batch, and its position there."""
        for waiting in self._batches:
            left = waiting.left
            if index < len(left):
                return waiting, left[index]
            index -= len(left)
        raise IndexError(index)

    async def answer(self, waiting: WaitingBatch, delivery: Coroutine[Any, Any, Receipt]) -> Answer:
        """Return the receipt of a batch, or that it is accepted."""
        outcome = asyncio.ensure_future(delivery)
        outcome.add_done_callback(waiting.release)
        try:
            await waiting.news
        except BaseException:
            outcome.cancel()
            raise
        if outcome.done():
            return outcome.result()
        self._outcomes.add(outcome)
        outcome.add_done_callback(self._outcomes.discard)
        return Accepted(outcome)

    def close(self) -> None:
        """Give up the batches that were accepted: they are not confirmed."""
        for outcome in self._outcomes:
            outcome.cancel()

    def _accept(self) -> None:
        if self._doubts and len(self._batches) <= _MOST and self._bytes <= _MOST_BYTES:
            for waiting in self._batches:
                waiting.release()

    @property
    def _bytes(self) -> int:
        return sum(waiting.batch.size for waiting in self._batches)


_CURRENT: ContextVar[WaitingBatches | None] = ContextVar("polku_waiting_batches", default=None)


def behind() -> WaitingBatches:
    """Return the batches that wait behind the one that this code delivers; none where nobody keeps them."""
    batches = _CURRENT.get()
    return WaitingBatches() if batches is None else batches


def delivering_before(batches: WaitingBatches) -> Within[WaitingBatches]:
    """Make `batches` what waits behind the one that is being delivered, within a block."""
    return Within(_CURRENT, batches)


def spread(number: int, length: int) -> int:
    """Return an index below `length` for the `number`-th choice: near each other are none of them."""
    return int(number * _GOLDEN % 1.0 * length)
