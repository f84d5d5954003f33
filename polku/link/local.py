"""Hand batches to the next part in the same process, where nothing is lost on the way and nobody dies alone.

It is what a link is between actors, without what only they need: numbers, repetition, windows. Who keeps a lane within
its bounds is its first link.
"""

from __future__ import annotations

import asyncio

from polku.aio.eager import start_eagerly
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, located, outcome_of
from polku.errors import DrainingError
from polku.link.link import LinkStatistics, Receiver
from polku.usercode import as_exception, is_ours


class LocalLink:
    """Begin the receiver's work on a batch as soon as it is handed over; batches keep their order."""

    def __init__(self, name: str, receiver: Receiver) -> None:
        self._name = name
        self._receiver = receiver
        self._working: dict[asyncio.Future[Receipt], tuple[int, int]] = {}  # events, and since when
        self._pushed = 0
        self._closed = False

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Hand the batch over and return the future of its receipt."""
        if self._closed:
            refused: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            refused.set_exception(DrainingError(f"{self._name} is closed"))
            return refused
        self._pushed += 1
        events, since = len(batch), batch.enqueued_ns
        answer = start_eagerly(self._hand_over(batch))
        if not answer.done():
            self._working[answer] = events, since
            answer.add_done_callback(self._working.pop)
        return answer

    def statistics(self) -> LinkStatistics:
        """Return a snapshot of the counters; from any thread."""
        working = list(self._working.values())
        since = min((since for _, since in working if since), default=0)
        return LinkStatistics(self._pushed, self._pushed, 0, 0, len(working), sum(n for n, _ in working), since)

    async def wait_room(self) -> None:
        """Return: who takes a batch takes it at once."""

    async def close(self) -> None:
        """Stop: what is still open fails with `DrainingError`; what the receiver has, it keeps."""
        self._closed = True
        for answer in list(self._working):
            answer.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def _hand_over(self, batch: Batch) -> Receipt:
        try:
            receipt = await outcome_of(await self._receiver.push(batch))
            if receipt.refused:
                receipt = receipt._replace(refused=located(receipt.refused, batch))
            return receipt.piece(0, len(batch)) if receipt.fates else receipt
        except BaseException as error:
            if self._closed and isinstance(error, asyncio.CancelledError):
                raise DrainingError(f"{self._name} was closed") from None
            if isinstance(error, Exception) or is_ours(error, cancelled=False):
                raise
            raise as_exception(error) from error
