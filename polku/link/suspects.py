"""Find out which batch kills its receiver.

When a receiver dies, every batch that was in flight to it is a suspect; one that it held is at the second death.
Suspects are pushed again one at a time, lowest number first, and nothing behind them, each with the wish to be worked
on alone, next to nothing of other senders either (see `quarantine`); who is answered is cleared. A batch of one event
whose receiver died twice while it was alone is at fault. One of more events is divided after the first time (see
`poison`): that condemns none of them. A death that another batch may have caused says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt, Turn
from polku.link.protocols import LOCAL_PUSH, LocalPeer

if TYPE_CHECKING:
    from polku.link.protocols import Peer, Push

DEATHS = 3
"""The deaths of its receiver that make an event a culprit: the first may be chance, and another's fault."""

ALONE = DEATHS - 1
"""Those of them at which it must have been worked on alone."""


def deaths_alone(events: int) -> int:
    """Return how often a receiver must have died of a batch that was alone until that is divided, or taken out."""
    return 1 if events > 1 else ALONE


class PoisonDetector:
    """Count the deaths that each batch in flight has seen, and let suspects go one at a time."""

    def __init__(self) -> None:
        self._deaths: dict[int, int] = {}  # suspects, and the deaths that nothing else can have caused
        self._lost: set[int] = set()  # held by a receiver that is gone, and not yet by another
        self._searching: list[asyncio.Future[None]] = []  # who waits for those
        self._spared: set[int] = set()  # held at one death: a receiver that holds much must not crawl after each chance
        self._ahead: set[int] = set()  # no suspects, but nothing behind them may be pushed either
        self._order: list[int] = []  # a heap of those two, also some that were cleared
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap of numbers that wait for their turn
        self._waits = 0

    def __contains__(self, seq: int) -> bool:
        return seq in self._deaths

    @property
    def lets_all_pass(self) -> bool:
        """Whether nobody has to wait for a turn."""
        return not self._order

    async def wait_turn(self, seq: int) -> None:
        """Return when a batch may be pushed: at once, unless another with a lower number must be answered first."""
        while (lowest := self._lowest()) is not None and seq > lowest:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waits += 1
            heappush(self._waiting, (seq, self._waits, turn))
            await turn

    async def wait_behind(self, seq: int) -> None:
        """Return when pieces of a batch may be pushed: no lower number must be answered, or be taken again, before it.

        Parts have numbers of their own: the receiver does not put them in order with the others.
        """
        await self.wait_turn(seq)
        while self._lost and min(self._lost) < seq:
            taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._searching.append(taken)
            await taken
            await self.wait_turn(seq)

    def lose(self, seq: int) -> None:
        """Hear that a batch has to be taken again: the receiver that held it is gone, or does not know it."""
        self._lost.add(seq)

    def record_crash(self, seq: int, *, alone: bool, held: bool = False, events: int = 1) -> bool:
        """Count a death of the receiver that had this batch; return whether it is a culprit, or to be divided."""
        if seq not in self._deaths:
            if held and not alone and seq not in self._spared:
                self._spared.add(seq)
                return False
            self._deaths[seq] = 0
            heappush(self._order, seq)
        self._deaths[seq] += alone
        return self._deaths[seq] >= deaths_alone(events)

    def hold_others(self, seq: int) -> None:
        """Let nothing behind this batch be pushed before it is answered: what failed is tried again in order."""
        if seq not in self._ahead:
            self._ahead.add(seq)
            heappush(self._order, seq)

    def clear(self, seq: int) -> None:
        """Forget a batch that has its final answer."""
        self._spared.discard(seq)
        self.release(seq)

    def release(self, seq: int) -> None:
        """Let the others pass a batch that is held: it is no longer a suspect until the next death."""
        if self._lost or self._searching:
            self._take(seq)
        if seq not in self._deaths and seq not in self._ahead:
            return
        self._deaths.pop(seq, None)
        self._ahead.discard(seq)
        lowest = self._lowest()
        while self._waiting and (lowest is None or self._waiting[0][0] <= lowest):
            _, _, turn = heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)

    def _take(self, seq: int) -> None:
        self._lost.discard(seq)
        waiting, self._searching = self._searching, []
        for taken in waiting:
            if not taken.done():
                taken.set_result(None)

    def _lowest(self) -> int | None:
        while self._order and self._order[0] not in self._deaths and self._order[0] not in self._ahead:
            heappop(self._order)
        return self._order[0] if self._order else None


class Trial:
    """One try to have a batch taken; a suspect is pushed with the wish to be worked on alone."""

    def __init__(self, *, suspect: bool) -> None:
        self._wishes = suspect
        self.is_alone = False  # whether nothing else is worked on: a death is the fault of this batch
        self.is_taken = False

    async def push(self, peer: Peer, identify: Callable[[bool], Push], batch: Batch) -> Answer:
        """Push the batch, a suspect when its turn has come, and return the answer."""
        while True:
            answer = await peer.push(LOCAL_PUSH if type(peer) is LocalPeer else identify(self._wishes), batch)
            if not isinstance(answer, Turn):
                # A receiver that takes a suspect without a turn has one sender, and nothing else to die of.
                self.is_alone, self.is_taken = self._wishes, not isinstance(answer, Receipt)
                return answer
            self.is_alone = self._wishes = answer.alone
