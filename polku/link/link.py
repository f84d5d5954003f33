"""The sender's side of the connection from one actor to the next.

A link has a window: a number of batches, and of bytes, that may be in flight at once. While the window is full, what
arrives is joined, and leaves as one batch when a place is free (natural batching: no timer; one event alone leaves
at once, a flood leaves in large batches). A batch that the receiver holds (answered with `Accepted`) has left the
window; if its outcome is lost it is pushed again beside it, since what is in the window may have to wait for it.

Every push carries the link's identity and a number; a push whose outcome is unknown is repeated under the same
number, which the receiver's `LinkReceiver` applies once.

Life of a batch: `push` queues it and waits → `_pump` joins it with its neighbours and gives them a number → `_carry`
has them sent (`Transmission`) until an answer comes → the answer is taken apart: each caller hears of its own events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from itertools import chain

from msgspec import Struct

from polku.aio.eager import start_eagerly
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join
from polku.batch.receipt import Receipt, located
from polku.errors import DrainingError, UnavailableError
from polku.link.backlog import SendQueue, Waiting, Window
from polku.link.coalescing import Backlog, Coalescer, ReceiverLoad
from polku.link.numbering import Numbering
from polku.link.poison import Bury
from polku.link.protocols import Holding, LocalPeer, Outgoing, Peer, Push, Receiver
from polku.link.transmission import Transmission
from polku.usercode import as_exception, is_ours

__all__ = ["Holding", "Link", "LinkStatistics", "LocalPeer", "Outgoing", "Peer", "Push", "Receiver", "Window"]


class LinkStatistics(Struct, frozen=True):
    """Count what a link has done; `waiting` and `open` are batches now.

    `events` are those of both; the first of them has been in the pipeline since `since_ns` (Unix; 0: nobody knows).
    """

    pushed: int
    sent: int
    resent: int
    waiting: int
    open: int
    events: int = 0
    since_ns: int = 0


class Link:
    """Push batches to one receiver, in order, within a window; join what has to wait.

    `bury` is handed events that kill the receiver, each as a batch of its own with the refusal that answers it.
    `eager`: a push begins with the receiver's work, as `start_eagerly` does, instead of in a task.
    """

    def __init__(
        self,
        name: str,
        peer: Peer,
        *,
        window: Window | None = None,
        retry_delay: Callable[[int], float] | None = None,
        bury: Bury | None = None,
        eager: bool = False,
    ) -> None:
        self.name = name
        self._numbering = Numbering(name)
        self._queue = SendQueue(window or Window())
        self._transmission = Transmission(peer, self._numbering, self._leave_window, retry_delay=retry_delay, bury=bury)
        self._open: dict[int, list[Waiting]] = {}  # every push without a final answer, by its rising number
        self._load = ReceiverLoad(self._queue, self._pump)
        self._gathering: Coalescer | None = None
        self._shape(self._queue.window)
        self._pushed = 0
        self._eager = eager
        self._pumping = False
        self._carrying: dict[int, asyncio.Future[None]] = {}  # by number
        self._tasks = TaskSet(f"link {name}")
        self._idle = asyncio.Event()
        self._left = asyncio.Event()
        self._idle.set()
        self._is_paused = False

    @property
    def epoch(self) -> int:
        """The number of this life of the link."""
        return self._numbering.epoch

    def notify(
        self, *, taken: Callable[[], None] | None = None, fault: Callable[[Exception], None] | None = None
    ) -> None:
        """Call `taken` when the receiver holds one batch more, and `fault` when a push ended with an exception.

        With `fault` such a push is tried again under its number; without it, who has pushed hears of it.
        """
        self._transmission.on_taken = taken or self._transmission.on_taken
        self._transmission.on_fault = fault or self._transmission.on_fault

    async def push(self, batch: Batch) -> Receipt:
        """Return the receipt of this batch when the receiver has discharged it.

        Raises `UnavailableError` where the receiver is gone for good and `DrainingError` after `close`. Cancelling
        the call does not take the batch back.
        """
        return await self.push_nowait(batch)

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Queue the batch and return the future of its receipt: calls in a row keep their order."""
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        if self._transmission.is_closed:
            answer.set_exception(DrainingError(f"link {self.name} is closed"))
            return answer
        self._pushed += 1
        self._queue.events += len(batch)
        self._queue.waiting.append(Waiting(batch, batch.size_hint, answer))
        self._idle.clear()
        self._pump()
        return answer

    async def wait_room(self) -> None:
        """Return when nothing waits and the window has a place: a batch pushed now leaves at once."""
        while not self._transmission.is_closed and not self.has_room:
            self._left.clear()
            await self._left.wait()

    @property
    def has_room(self) -> bool:
        """Whether a batch pushed now leaves at once."""
        return not self._queue.waiting and self._queue.has_place(0)

    async def wait_backlog(self) -> None:
        """Return when less waits than fits into one joined batch: who prepares more than that prepares too early."""
        while self._queue.events >= max(self._queue.window.join_events, 1):
            self._left.clear()
            await self._left.wait()

    @property
    def is_holding(self) -> bool:
        """Whether the receiver has taken something whose outcome is open."""
        return len(self._open) > len(self._queue.in_window)

    def flush_nowait(self, *, everything: bool = False) -> None:
        """Ask the receiver to release what it has taken and holds, if there is anything."""
        if self.is_holding and not self._transmission.is_closed:
            self._tasks.start("flush", self._flush(everything))

    async def drain(self) -> None:
        """Return when every batch pushed so far has its final answer."""
        await self._idle.wait()

    def pause(self) -> None:
        """Send nothing new until `resume`; what is pushed waits."""
        self._is_paused = True

    def resume(self) -> None:
        """Send again."""
        self._is_paused = False
        self._pump()

    def lead_to(self, peer: Peer, window: Window, *, eager: bool, name: str | None = None) -> None:
        """Push to another receiver from now on, under another `name` if need be: while paused, with nothing open."""
        assert self.is_at_rest
        self.name = self._numbering.name = name or self.name
        self._transmission.peer, self._eager = peer, eager
        self._shape(window)

    @property
    def is_at_rest(self) -> bool:
        """Whether it sends nothing, and all that was sent has its final answer."""
        return self._is_paused and not self._open

    @property
    def open(self) -> int:
        """The number of batches that were sent and have no final answer."""
        return len(self._open)

    def _shape(self, window: Window) -> None:
        if self._gathering is not None:
            self._gathering.close()
        self._queue.window, self._gathering = window, None
        if window.gather_events:
            self._gathering = Coalescer(window.gather_events, window.gather_turns, self._look, self._pump)

    async def close(self) -> None:
        """Stop: what is still open fails with `DrainingError`; what the receiver has, it keeps."""
        self._transmission.is_closed = True
        if self._gathering is not None:
            self._gathering.close()
        self._load.close()
        carrying = list(self._carrying.values())
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        await self._tasks.close()
        error = DrainingError(f"link {self.name} was closed")
        for joined in [*self._open.values(), list(self._queue.waiting)]:
            _fail(joined, error)
        self._open.clear()
        self._numbering.open.clear()
        self._queue.waiting.clear()
        self._queue.events = 0
        self._idle.set()
        self._left.set()

    def statistics(self) -> LinkStatistics:
        """Return a snapshot of the counters."""
        waiting, sent = list(self._queue.waiting), list(self._open.values())
        batches = [one.batch for one in (*waiting, *chain.from_iterable(sent))]
        since = min((batch.enqueued_ns for batch in batches if batch.enqueued_ns), default=0)
        counts = (self._pushed, self._transmission.sent, self._transmission.resent, len(waiting), len(sent))
        return LinkStatistics(*counts, sum(map(len, batches)), since)

    @property
    def _stands_still(self) -> bool:
        return self._transmission.is_closed or self._is_paused

    def _look(self) -> Backlog:
        return Backlog(len(self._queue.waiting), self._queue.events)

    def _pump(self) -> None:
        if self._pumping:  # what is carried at once makes room while it is being sent: the loop below looks again
            return
        self._pumping = True
        queue = self._queue
        try:
            while queue.waiting and not self._stands_still and queue.has_place(queue.waiting[0].size):
                if self._gathering is not None and self._gathering.holds(self._load.is_busy()):
                    return
                joined, size = queue.next_joined()
                if self._gathering is not None:
                    self._gathering.pushed(len(joined), len(queue.waiting))
                self._send(joined, size)
        finally:
            self._pumping = False

    def _send(self, joined: list[Waiting], size: int) -> None:
        self._load.sent_at = asyncio.get_running_loop().time()
        seq = self._numbering.open_next()
        self._open[seq] = joined
        self._queue.in_window[seq] = size
        work = self._carry(seq, joined)
        carrying = start_eagerly(work) if self._eager else asyncio.get_running_loop().create_task(work)
        if seq in self._open:
            self._carrying[seq] = carrying

    async def _carry(self, seq: int, joined: list[Waiting]) -> None:
        try:
            batch = join([one.batch for one in joined])
            if batch.identity is None:
                batch.identity = self._numbering.identity(seq)
            receipt = await self._transmission.send(seq, batch)
            receipt = receipt._replace(refused=located(receipt.refused, batch)) if receipt.refused else receipt
        except BaseException as error:
            if is_ours(error, cancelled=self._transmission.is_closed):
                raise  # `close` answers what is open
            _fail(joined, as_exception(error))
        else:
            self._transmission.learn(receipt)
            _answer(joined, receipt)
        self._transmission.clear(seq)
        self._leave_window(seq)
        del self._open[seq]
        self._numbering.open.remove(seq)
        self._carrying.pop(seq, None)
        if not self._open and not self._queue.waiting:
            self._idle.set()

    async def _flush(self, everything: bool) -> None:
        with contextlib.suppress(UnavailableError):  # then what it held is pushed again
            await self._transmission.peer.flush(everything)

    def _leave_window(self, seq: int) -> None:
        if seq in self._queue.in_window:
            del self._queue.in_window[seq]
            self._pump()
            self._left.set()


def _answer(joined: list[Waiting], receipt: Receipt) -> None:
    start = 0
    for one in joined:
        if not one.answer.done():
            one.answer.set_result(receipt.piece(start, len(one.batch)))
        start += len(one.batch)


def _fail(joined: list[Waiting], error: Exception) -> None:
    for one in joined:
        if not one.answer.done():
            one.answer.set_exception(error)
