"""Take out of a batch the events that kill whatever works on them.

A batch that was found to kill its receiver (see `suspects`) is pushed in pieces, each alone, down to the single event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from math import isqrt
from typing import TypeAlias

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Fate, Output, Receipt, Refusal, located, moved, numbers_of, shifted
from polku.codes import Code
from polku.errors import UnavailableError
from polku.link.suspects import DEATHS, Trial, deaths_alone

Bury: TypeAlias = Callable[[Batch, tuple[Refusal, ...]], "Awaitable[None] | None"]


class PoisonSearch:
    """Push batches in pieces: `push_piece` tries once, under a number, `pause` waits before the next time.

    `numbers` are those of the latest receipt, which the answer about an event that was taken out has too.
    """

    def __init__(
        self,
        name: str,
        push_piece: Callable[[Trial, int, Batch], Awaitable[Receipt]],
        pause: Callable[[UnavailableError, int], Awaitable[None]],
    ) -> None:
        self._name = name
        self._push_piece = push_piece
        self._pause = pause
        self._pieces = 0
        self.numbers = numbers_of(Receipt())

    async def run(self, batch: Batch, bury: Bury | None, turn: Callable[[], Awaitable[None]]) -> Receipt:
        """Push a batch that kills its receiver; only the events that kill it alone are refused, and buried.

        `turn` returns when a piece may be pushed: what comes before the batch must not come behind it.
        """
        if len(batch) == 1:
            return await self._take_out(batch, bury)
        receipt = Receipt()
        refused: tuple[Refusal, ...] = ()
        output: tuple[Output, ...] = ()
        fates: tuple[Fate, ...] = ()
        start = 0
        for piece in divide(batch):
            receipt = await self._send(piece, bury, turn)
            refused += shifted(located(receipt.refused, piece), start)
            output += tuple(made.after(start) for made in receipt.output)
            fates += moved(receipt.piece(0, len(piece)).fates, start)
            start += len(piece)
        return receipt._replace(refused=refused, output=output, fates=fates)

    async def _take_out(self, batch: Batch, bury: Bury | None) -> Receipt:
        reason = f"{self._name}: the process that handled this event died, {DEATHS} times in a row; it was taken out"
        poison = (Refusal(batch.ids[0], Code.POISON, reason, position=0),)
        stored = bury(batch, poison) if bury is not None else None
        if stored is not None:
            await stored
        poison = (poison[0]._replace(letter=bury is not None),)
        return Receipt(poison, *self.numbers, fates=((0, "forwarded", -1),) if batch.wants_fates else ())

    async def _send(self, piece: Batch, bury: Bury | None, turn: Callable[[], Awaitable[None]]) -> Receipt:
        """Push a piece alone: its answer is awaited before the next one."""
        self._pieces += 1
        number = self._pieces
        attempt = deaths = 0
        while True:
            await turn()
            trial = Trial(suspect=True)
            try:
                return await self._push_piece(trial, number, piece)
            except UnavailableError as error:
                deaths += error.died and trial.is_alone
                attempt += 1
                await self._pause(error, attempt)
                if deaths >= deaths_alone(len(piece)):
                    return await self.run(piece, bury, turn)


def divide(batch: Batch) -> Iterator[Batch]:
    """Cut a batch into about the square root of its number of pieces: two levels lead to the single event.

    Halves would need fewer pushes, but a death for each level, and deaths are what costs time. The identity of a piece
    follows from that of the batch, so that what comes behind the receiver knows one that it has had.
    """
    size = max(1, isqrt(len(batch)))
    identity, start = batch.identity, 0
    rest = batch
    while len(rest) > size:
        piece, rest = rest.split(size)
        yield _named(piece, identity, start)
        start += size
    yield _named(rest, identity, start)


def _named(piece: Batch, identity: Identity | None, start: int) -> Batch:
    piece.identity = None if identity is None else identity.piece(start, len(piece))
    return piece
