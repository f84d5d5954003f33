"""The receiver's side of a link: every batch is applied once, in the order of its numbers.

An inlet keeps, for each sender, the numbers that were applied and the answers that the sender may still ask for. A
batch that is pushed twice gets the answer of the first push, also while that is still being worked on; one that comes
too early waits for its predecessor, for a while; answers below the sender's floor are forgotten.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from polku.batch import Batch
from polku.begin import begin
from polku.errors import UnavailableError
from polku.link import Push, Receiver
from polku.receipt import Receipt, Taken


class InletStatistics(NamedTuple):
    """Count what came in; `duplicates` were answered without being applied, `open` is batches now."""

    applied: int
    duplicates: int
    open: int


class _Answer:
    """An answer that several pushes may wait for; that one of them is cancelled is nothing to the others.

    As `asyncio.shield` around a future, at half the price.
    """

    __slots__ = ("_error", "_result", "_waiters")

    def __init__(self) -> None:
        self._result: Receipt | Taken | None = None
        self._error: Exception | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_there(self) -> bool:
        """Whether it is known by now."""
        return self._result is not None or self._error is not None

    def give(self, result: Receipt | Taken) -> None:
        """Answer all who wait."""
        self._result = result
        self._wake()

    def fail(self, error: Exception) -> None:
        """Have it raised wherever it is waited for."""
        self._error = error
        self._wake()

    async def wait(self) -> Receipt | Taken:
        """Return it once it is known, or raise what it failed with."""
        if not self.is_there:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class _Sender:
    """What is known of one sender in one of its lives."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.floor = 0
        self.after: dict[int, int] = {}  # seq -> what it comes after: nothing between the two is open any more
        self.applied: set[int] = set()
        self.early: dict[int, tuple[int, Batch]] = {}  # seq -> what it must come after, and the batch
        self.answers: dict[int, _Answer] = {}
        self.outcomes: dict[int, asyncio.Future[Receipt]] = {}

    def raise_floor(self, floor: int) -> None:
        """Forget what the sender has the final answers of."""
        if floor <= self.floor:
            return
        self.floor = floor
        self.applied = {seq for seq in self.applied if seq >= floor}
        self.after = {seq: after for seq, after in self.after.items() if seq >= floor}
        for seq in [seq for seq in self.early if seq < floor]:
            self.give_back(seq, f"number {seq} comes after its sender was answered")
        self.answers = {seq: answer for seq, answer in self.answers.items() if seq >= floor}
        self.outcomes = {seq: outcome for seq, outcome in self.outcomes.items() if seq >= floor}

    def give_back(self, seq: int, reason: str) -> None:
        """Refuse a batch that waits for its predecessor: its sender must push it again, if it still has it."""
        if seq in self.early:
            del self.early[seq]
            self.answers.pop(seq).fail(UnavailableError(reason))

    def is_stale(self, seq: int) -> bool:
        """Say whether the sender has the final answer of a number already: a late copy must not be applied."""
        return seq < self.floor or any(after < seq < later for later, after in self.after.items())

    def ready(self) -> int | None:
        """Return a number whose predecessor has been applied, if there is one."""
        for seq, (after, _) in self.early.items():
            if after < self.floor or after in self.applied:
                return seq
        return None


class Inlet:
    """Receive pushes of many links for one receiver; `at_once` as at a `Link`."""

    def __init__(self, receiver: Receiver, *, patience: float = 1.0, at_once: bool = False) -> None:
        self._receiver = receiver
        self._at_once = at_once
        self._patience = patience
        self._senders: dict[str, _Sender] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._applied = self._duplicates = 0

    async def push(self, push: Push, batch: Batch) -> Receipt | Taken:
        """Apply the batch, unless it was applied before, and return its answer.

        Raises what the receiver raised, and `UnavailableError` for a push from a past life of its sender.
        """
        sender = self._sender_of(push)
        answer = sender.answers.get(push.seq)
        if answer is None and sender.is_stale(push.seq):
            raise UnavailableError(f"{push} comes after its sender was answered")
        # What comes before it can only have been answered since: of two copies the lower predecessor is the newer one.
        after = sender.after[push.seq] = min(push.after, sender.after.get(push.seq, push.after))
        if answer is None:
            answer = sender.answers[push.seq] = _Answer()
            sender.early[push.seq] = (after, batch)
            self._apply_ready(sender)
            if push.seq in sender.early:
                # A past life of this receiver may have answered the predecessor: then it never comes.
                reason = f"what comes before number {push.seq} is missing"
                asyncio.get_running_loop().call_later(self._patience, sender.give_back, push.seq, reason)
        else:
            self._duplicates += 1
            if push.seq in sender.early:  # what it waited for may have been answered meanwhile
                sender.early[push.seq] = (after, batch)
            self._apply_ready(sender)
        return await answer.wait()

    async def settle(self, push: Push) -> Receipt:
        """Return the outcome of a batch that was answered with `Taken`.

        Raises `UnavailableError` where this inlet does not know the batch: it must be pushed again.
        """
        outcome = self._sender_of(push).outcomes.get(push.seq)
        if outcome is None:
            raise UnavailableError(f"{push} is not known here")
        return await asyncio.shield(outcome)

    def statistics(self) -> InletStatistics:
        """Return a snapshot of the counters."""
        open_answers = sum(not a.is_there for sender in self._senders.values() for a in sender.answers.values())
        return InletStatistics(self._applied, self._duplicates, open_answers)

    def _sender_of(self, push: Push) -> _Sender:
        sender = self._senders.get(push.link)
        if sender is None or sender.epoch < push.epoch:
            sender = self._senders[push.link] = _Sender(push.epoch)
        elif sender.epoch > push.epoch:
            raise UnavailableError(f"{push} comes from a past life of its sender")
        sender.raise_floor(push.floor)
        return sender

    def _apply_ready(self, sender: _Sender) -> None:
        while (seq := sender.ready()) is not None:
            sender.applied.add(seq)
            _, batch = sender.early.pop(seq)
            work = self._apply(sender, seq, batch, sender.answers[seq])
            applying = begin(work) if self._at_once else asyncio.get_running_loop().create_task(work)
            if not applying.done():
                self._tasks.add(applying)

    async def _apply(self, sender: _Sender, seq: int, batch: Batch, answer: _Answer) -> None:
        self._applied += 1
        try:
            result = await self._receiver.push(batch)
        except Exception as error:
            answer.fail(error)
        else:
            if isinstance(result, Receipt):
                answer.give(result)
            else:
                outcome = sender.outcomes[seq] = asyncio.ensure_future(result)
                outcome.add_done_callback(_retrieved)
                answer.give(Taken())
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: where the sender has gone nobody else asks for it."""
    if not future.cancelled():
        future.exception()
