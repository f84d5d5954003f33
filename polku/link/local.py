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
from polku.link.link import Receiver
from polku.usercode import as_exception, is_ours


class LocalLink:
    """Begin the receiver's work on a batch as soon as it is handed over; batches keep their order."""

    def __init__(self, name: str, receiver: Receiver) -> None:
        self._name = name
        self._receiver = receiver
        self._working: set[asyncio.Future[Receipt]] = set()
        self._closed = False

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Hand the batch over and return the future of its receipt."""
        if self._closed:
            refused: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            refused.set_exception(DrainingError(f"{self._name} is closed"))
            return refused
        answer = start_eagerly(self._hand_over(batch))
        if not answer.done():
            self._working.add(answer)
            answer.add_done_callback(self._working.discard)
        return answer

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
            return receipt.part(0, len(batch)) if receipt.fates else receipt
        except BaseException as error:
            if self._closed and isinstance(error, asyncio.CancelledError):
                raise DrainingError(f"{self._name} was closed") from None
            if isinstance(error, Exception) or is_ours(error, cancelled=False):
                raise
            raise as_exception(error) from error
