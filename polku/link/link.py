"""The sender's side of the connection from one actor to the next.

A link has a window: so many batches, and so many bytes, may be under way at once. While the window is full, what
arrives is joined, and leaves as one batch when a place is free (natural batching: no timer; one event alone leaves
at once, a flood leaves in large batches). A batch that the receiver holds (answered with `Accepted`) has left the
window; if its outcome is lost it is pushed again beside it, since what is in the window may have to wait for it.

Every push carries the link's identity and a number; a push whose outcome is unknown is repeated under the same
number, which the receiver's `LinkReceiver` applies once.

Life of a batch: `push` queues it and waits → `_pump` joins it with its neighbours and gives them a number → `_carry`
sends them until an answer comes → the answer is told apart again, so that each caller hears about its own events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain, count
from typing import NamedTuple

from polku.aio.eager import start_eagerly
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, Identity, join
from polku.batch.receipt import Receipt, located, numbers_of, outcome_of
from polku.errors import DrainingError, PastLifeError, UnavailableError
from polku.link.coalescing import Backlog, Coalescer
from polku.link.epoch import new_epoch
from polku.link.poison import Bury, Search
from polku.link.protocols import Holding, LocalPeer, Outgoing, Peer, Push, Receiver
from polku.link.suspects import PoisonDetector, Trial
from polku.link.window import OpenNumbers
from polku.log import RepeatedLog
from polku.usercode import as_exception, is_ours

__all__ = ["Holding", "Link", "LinkStatistics", "LocalPeer", "Outgoing", "Peer", "Push", "Receiver", "Window"]

_LOG = logging.getLogger(__name__)
_BUSY_SECONDS = 0.05  # so long small batches wait for the answer to one that is in flight
_REPEATED = RepeatedLog(_LOG)


class Window(NamedTuple):
    """Bound a link: batches and bytes under way, events and bytes joined into one batch.

    Fewer than `gather_events` wait for more, as `Coalescer` says: while half of the window is under way, and where they
    come side by side until none has come for `gather_turns` of the event loop.

    Measured as a chain of four actors on two cores, in turns. Over sockets a window of 2 and joins of 3,072 to 8,192
    events gave 421,000 to 452,000 events a second, which is one number on that machine, and so did windows of 1 and 4:
    both cores are busy anyhow, but a window of 1 would leave a core idle where there are more. Smaller and larger joins
    gave less: 2,048 events a sixth, 12,288 (1.9 MB) too. By calls of Ray, as between nodes, it matters: one costs
    0.8 ms, whatever is in it, and 0.5 ms more for 800 kB, but 3 ms more for 1.5 MB, so that 6,144 events or just under
    a megabyte gave 520,000 events a second where 4,096 or half a megabyte gave 455,000, and 2 beat 1 and 4.
    """

    batches: int = 2
    bytes: int = 8 * 1024 * 1024
    join_events: int = 6144
    join_bytes: int = 960 * 1024
    gather_events: int = 0
    gather_turns: int = 0


class LinkStatistics(NamedTuple):
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


class _Waiting(NamedTuple):
    batch: Batch
    size: int
    answer: asyncio.Future[Receipt]


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
        self.epoch = new_epoch()
        self._peer = peer
        self._window = window or Window()
        self._retry_delay = retry_delay or _default_delay
        self._waiting: deque[_Waiting] = deque()
        self._open: dict[int, list[_Waiting]] = {}  # every push without a final answer, by its rising number
        self._numbers = OpenNumbers()  # those of `_open`
        self._in_window: dict[int, int] = {}  # seq -> bytes
        self._seq = 0
        self._waiting_events = 0
        self._gathering: Coalescer | None = None
        self._shape(self._window)
        self._pushed = self._sent = self._resent = 0
        self._suspects = PoisonDetector()
        self._search = Search(name, self._push_part, self._pause)
        self._bury = bury
        self.on_taken: Callable[[], None] = _nothing  # called when the receiver holds one batch more
        # What is told of a push that ended with an exception, and tried again under its number; None: its caller is.
        self.on_fault: Callable[[Exception], None] | None = None
        self._eager = eager
        self._pumping = False
        self._sent_at = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._carrying: dict[int, asyncio.Future[None]] = {}  # by number
        self._tasks = TaskSet(f"link {name}")
        self._idle = asyncio.Event()
        self._left = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._is_paused = False

    async def push(self, batch: Batch) -> Receipt:
        """Return the receipt of this batch when the receiver has discharged it.

        Raises `UnavailableError` where the receiver is gone for good and `DrainingError` after `close`. Cancelling
        the call does not take the batch back.
        """
        return await self.push_nowait(batch)

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Queue the batch and return the future of its receipt: calls in a row keep their order."""
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(DrainingError(f"link {self.name} is closed"))
            return answer
        self._pushed += 1
        self._waiting_events += len(batch)
        self._waiting.append(_Waiting(batch, batch.size_hint, answer))
        self._idle.clear()
        self._pump()
        return answer

    async def wait_room(self) -> None:
        """Return when nothing waits and the window has a place: a batch pushed now leaves at once."""
        while not self._closed and not self.has_room:
            self._left.clear()
            await self._left.wait()

    @property
    def has_room(self) -> bool:
        """Whether a batch pushed now leaves at once."""
        return not self._waiting and self._has_place(0)

    async def wait_backlog(self) -> None:
        """Return when less waits than fits into one joined batch: who prepares more than that prepares too early."""
        while self._waiting_events >= max(self._window.join_events, 1):
            self._left.clear()
            await self._left.wait()

    @property
    def is_holding(self) -> bool:
        """Whether the receiver has taken something whose outcome is open."""
        return len(self._open) > len(self._in_window)

    def flush_nowait(self, *, everything: bool = False) -> None:
        """Ask the receiver to release what it has taken and holds, if there is anything."""
        if self.is_holding and not self._closed:
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

    def lead_to(self, peer: Peer, window: Window, *, eager: bool) -> None:
        """Push to another receiver from now on: while paused, with nothing open."""
        assert self.is_at_rest
        self._peer, self._eager = peer, eager
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
        self._window, self._gathering = window, None
        if window.gather_events:
            self._gathering = Coalescer(window.gather_events, window.gather_turns, self._look, self._pump)

    async def close(self) -> None:
        """Stop: what is still open fails with `DrainingError`; what the receiver has, it keeps."""
        self._closed = True
        if self._gathering is not None:
            self._gathering.close()
        if self._again is not None:
            self._again.cancel()
        carrying = list(self._carrying.values())
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        await self._tasks.close()
        error = DrainingError(f"link {self.name} was closed")
        for parts in [*self._open.values(), list(self._waiting)]:
            _fail(parts, error)
        self._open.clear()
        self._numbers.clear()
        self._waiting.clear()
        self._waiting_events = 0
        self._idle.set()
        self._left.set()

    def statistics(self) -> LinkStatistics:
        """Return a snapshot of the counters."""
        waiting, sent = list(self._waiting), list(self._open.values())
        batches = [one.batch for one in (*waiting, *chain.from_iterable(sent))]
        since = min((batch.enqueued_ns for batch in batches if batch.enqueued_ns), default=0)
        counts = (self._pushed, self._sent, self._resent, len(waiting), len(sent))
        return LinkStatistics(*counts, sum(map(len, batches)), since)

    @property
    def _stands_still(self) -> bool:
        return self._closed or self._is_paused

    def _look(self) -> Backlog:
        return Backlog(len(self._waiting), self._waiting_events)

    def _pump(self) -> None:
        if self._pumping:  # what is carried at once makes room while it is being sent: the loop below looks again
            return
        self._pumping = True
        try:
            while self._waiting and not self._stands_still and self._has_place(self._waiting[0].size):
                if self._gathering is not None and self._gathering.holds(self._is_busy()):
                    return
                parts = self._next_parts()
                if self._gathering is not None:
                    self._gathering.pushed(len(parts), len(self._waiting))
                self._send(parts)
        finally:
            self._pumping = False

    def _is_busy(self) -> bool:
        """Return whether enough is in flight to keep the receiver busy, and small batches should wait for its answer.

        Not for one that takes long: what it waits for may be nothing to those behind it.
        """
        if 2 * len(self._in_window) < self._window.batches:
            return False
        loop = asyncio.get_running_loop()
        if loop.time() >= self._sent_at + _BUSY_SECONDS:
            return False
        if self._again is None:
            self._again = loop.call_at(self._sent_at + _BUSY_SECONDS, self._pump_again)
        return True

    def _pump_again(self) -> None:
        self._again = None
        self._pump()

    def _send(self, parts: list[_Waiting]) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        self._seq = seq = self._seq + 1
        self._open[seq] = parts
        self._numbers.add(seq)
        self._in_window[seq] = sum(part.size for part in parts)
        work = self._carry(seq, parts)
        carrying = start_eagerly(work) if self._eager else asyncio.get_running_loop().create_task(work)
        if seq in self._open:
            self._carrying[seq] = carrying

    def _has_place(self, size: int) -> bool:
        if not self._in_window:
            return True
        if len(self._in_window) >= self._window.batches:
            return False
        return sum(self._in_window.values()) + size <= self._window.bytes

    def _next_parts(self) -> list[_Waiting]:
        parts = [self._waiting.popleft()]
        events, size = len(parts[0].batch), parts[0].size
        limit = min(self._window.join_bytes, self._window.bytes - sum(self._in_window.values()))
        while self._waiting:
            events += len(self._waiting[0].batch)
            size += self._waiting[0].size
            if events > self._window.join_events or size > limit:
                break
            parts.append(self._waiting.popleft())
        self._waiting_events -= sum(len(part.batch) for part in parts)
        return parts

    async def _carry(self, seq: int, parts: list[_Waiting]) -> None:
        try:
            batch = join([part.batch for part in parts])
            if batch.identity is None:
                batch.identity = Identity(self.name, self.epoch, seq)
            receipt = await self._send_despite_faults(seq, batch)
            receipt = receipt._replace(refused=located(receipt.refused, batch)) if receipt.refused else receipt
        except BaseException as error:
            if is_ours(error, cancelled=self._closed):
                raise  # `close` answers what is open
            _fail(parts, as_exception(error))
        else:
            self._search.numbers = numbers_of(receipt)
            _answer(parts, receipt)
        self._suspects.clear(seq)
        self._leave_window(seq)
        del self._open[seq]
        self._numbers.remove(seq)
        self._carrying.pop(seq, None)
        if not self._open and not self._waiting:
            self._idle.set()

    async def _send_despite_faults(self, seq: int, batch: Batch) -> Receipt:
        """Send until there is an answer; an exception that is none ends it only where nobody watches the faults."""
        for attempt in count(1):
            try:
                return await self._send_until_answered(seq, batch)
            except BaseException as error:
                if self.on_fault is None or is_ours(error, cancelled=self._closed):
                    raise
                self.on_fault(as_exception(error))
            self._suspects.hold_others(seq)
            self._resent += 1
            await asyncio.sleep(self._retry_delay(attempt))
        raise AssertionError("unreachable")

    async def _send_until_answered(self, seq: int, batch: Batch) -> Receipt:
        attempt = 0
        while True:
            await self._suspects.wait_turn(seq)
            trial = Trial(suspect=seq in self._suspects)
            try:
                self._sent += 1
                answer = await trial.push(self._peer, partial(self._identify, seq), batch)
                if isinstance(answer, Receipt):
                    return answer
                if not trial.is_alone:
                    self._suspects.release(seq)
                self._leave_window(seq)
                self.on_taken()
                return await answer.outcome()
            except UnavailableError as error:
                if error.died and self._suspects.record_crash(seq, alone=trial.is_alone, held=trial.is_taken):
                    return await self._search.run(batch, self._bury)
                attempt += 1
                _REPEATED.info(self.name, "%s: batch %d is sent again: %s", self.name, seq, error)
                await self._pause(error, attempt)

    async def _flush(self, everything: bool) -> None:
        with contextlib.suppress(UnavailableError):  # then what it held is pushed again
            await self._peer.flush(everything)

    async def _push_part(self, trial: Trial, number: int, part: Batch) -> Receipt:
        """Push a part of a batch that kills its receiver once, and return its outcome."""
        self._sent += 1
        answer = await trial.push(self._peer, partial(self._identify_part, number), part)
        receipt = await outcome_of(answer)
        self._search.numbers = numbers_of(receipt)
        return receipt

    async def _pause(self, error: UnavailableError, attempt: int) -> None:
        """Wait before something is sent again."""
        self._outlive(error)
        self._resent += 1
        await asyncio.sleep(self._retry_delay(attempt))

    def _identify(self, seq: int, alone: bool = False) -> Push:
        numbers = self._numbers
        return Push(self.name, self.epoch, seq, numbers.lowest, numbers.below(seq), numbers.next_gap(), alone)

    def _identify_part(self, number: int, alone: bool) -> Push:
        return Push(f"{self.name}/parts", self.epoch, number, number, 0, alone=alone)

    def _outlive(self, error: UnavailableError) -> None:
        """Take a higher epoch where the receiver knows another life of this link: it began when the clock was ahead.

        With an epoch that is ours by now it speaks of a batch that was pushed before that was taken.
        """
        if isinstance(error, PastLifeError) and error.epoch > self.epoch:
            _REPEATED.warning(
                ("epoch", self.name), "%s: %s; this one lives, and takes a higher epoch", self.name, error
            )
            self.epoch = new_epoch(error.epoch)

    def _leave_window(self, seq: int) -> None:
        if seq in self._in_window:
            del self._in_window[seq]
            self._pump()
            self._left.set()


def _nothing() -> None:
    """Do nothing."""


def _default_delay(attempt: int) -> float:
    return float(min(0.05 * 2 ** min(attempt - 1, 5), 1.0))


def _answer(parts: list[_Waiting], receipt: Receipt) -> None:
    start = 0
    for part in parts:
        if not part.answer.done():
            part.answer.set_result(receipt.part(start, len(part.batch)))
        start += len(part.batch)


def _fail(parts: list[_Waiting], error: Exception) -> None:
    for part in parts:
        if not part.answer.done():
            part.answer.set_exception(error)
