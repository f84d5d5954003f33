"""The receiver's side of a link: in one life of it every batch is applied once, in the order of its numbers.

A receiver keeps, for each sender, the answers that the sender may still ask for, and as ranges the numbers that it has
the final answers of. A batch that is pushed twice gets the answer of the first push, also while that is still being
worked on; one that comes too early waits for its predecessor, for a while; a late copy of what was answered is refused.
What a stage sends again after it died is recognised further on, by the buffer: `polku.buffer.remembered`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import deque
from functools import partial

from msgspec import Struct

from polku.aio.eager import start_eagerly
from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Deferred, Receipt, Turn
from polku.errors import PastLifeError, UnavailableError
from polku.link.open_numbers import Ranges
from polku.link.protocols import Holding, Push, Receiver
from polku.link.quarantine import Key, Patience, Quarantine, Work
from polku.usercode import as_exception, contained, is_ours


class LinkReceiverStatistics(Struct, frozen=True):
    """Count what came in; `duplicates` were answered without being applied, `open` is batches now."""

    applied: int
    duplicates: int
    open: int


class _Answer:
    """An answer that several pushes may wait for; to cancel one of them does not affect the others.

    As `asyncio.shield` around a future, at half the price.
    """

    __slots__ = ("_error", "_result", "_waiters")

    def __init__(self) -> None:
        self._result: Answer | None = None
        self._error: Exception | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_there(self) -> bool:
        """Whether it is known by now."""
        return self._result is not None or self._error is not None

    def give(self, result: Answer) -> None:
        """Answer all who wait."""
        self._result = result
        self._wake()

    def fail(self, error: Exception) -> None:
        """Have it raised wherever it is waited for."""
        self._error = error
        self._wake()

    async def wait(self) -> Answer:
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


class _Entry:
    """What is known of a number without a final answer: nothing yet, that it waits for another one, or its answer."""

    __slots__ = ("answer", "batch", "followers", "outcome")

    def __init__(self) -> None:
        self.batch: Batch | None = None  # while it waits
        self.answer: _Answer | None = None
        self.outcome: asyncio.Future[Receipt] | None = None
        self.followers: list[int] = []  # who waits for it

    @property
    def is_early(self) -> bool:
        """Whether it has come and waits for its predecessor."""
        return self.batch is not None

    @property
    def is_applied(self) -> bool:
        """Whether the receiver has it, or had it."""
        return self.answer is not None and self.batch is None

    def give_back(self, error: Exception) -> None:
        """Refuse a batch that waits for its predecessor: its sender must push it again, if it still has it."""
        if self.batch is not None and self.answer is not None:
            answer, self.batch, self.answer = self.answer, None, None
            answer.fail(error)

    def forget(self) -> None:
        """Have it applied again when it comes again."""
        self.answer = self.outcome = None


class _Sender:
    """What is known of one sender in one of its lives.

    Every number is closed (its sender has the final answer: a late copy must not be applied), has an entry, or was
    never heard of. A sender has few open numbers at a time, and tells with every push of some that were closed, so
    there are few entries, and few ranges of closed numbers between them, however many numbers there were.
    """

    def __init__(self, link: str, epoch: int) -> None:
        self.link = link
        self.epoch = epoch
        self.entries: dict[int, _Entry] = {}
        self.after: dict[int, int] = {}  # seq -> what it comes after: nothing between the two is open any more
        self.closed = Ranges()
        self._order: list[int] = []  # the numbers of the entries, rising
        self._ready: deque[int] = deque()  # numbers to be looked at: what they waited for may be applied or closed

    def learn(self, push: Push) -> None:
        """Close what a push says is closed."""
        self._close(0, push.floor - 1)
        self._close(push.after + 1, push.seq - 1)
        self._close(push.gap[0] + 1, push.gap[1] - 1)

    def entry(self, seq: int) -> _Entry:
        """Return what is known of a number that is not closed."""
        entry = self.entries.get(seq)
        if entry is None:
            entry = self.entries[seq] = _Entry()
            insort(self._order, seq)
        return entry

    def put(self, seq: int, after: int, batch: Batch) -> _Entry:
        """Queue a batch until its predecessor is applied, unless it was applied itself."""
        entry = self.entry(seq)
        if entry.is_applied:
            return entry
        # A later copy of a push names a lower predecessor: what was in between has been answered since.
        after = self.after[seq] = min(after, self.after.get(seq, after))
        entry.batch = batch
        if entry.answer is None:
            entry.answer = _Answer()
        self._ready.append(seq)
        return entry

    def waits_for(self, seq: int) -> int | None:
        """Return the number that has to be applied before this one, if there is one.

        What it was said to come after may be closed by now. Then it comes after the highest one below that is not:
        that one may be open still, and have to be applied again by a receiver that was started again.
        """
        before = self.closed.highest_missing(self.after[seq])
        entry = self.entries.get(before)
        return None if before < 1 or (entry is not None and entry.is_applied) else before

    def next_ready(self) -> int | None:
        """Return a number that may be applied now, if there is one."""
        while self._ready:
            seq = self._ready[0]
            entry = self.entries.get(seq)
            before = self.waits_for(seq) if entry is not None and entry.is_early else None
            if entry is not None and entry.is_early and before is None:
                return seq
            self._ready.popleft()
            if before is not None:
                self.entry(before).followers.append(seq)
        return None

    def begin(self, seq: int) -> tuple[_Entry, Batch]:
        """Return a number's entry and its batch, which is applied from now on."""
        entry = self.entries[seq]
        batch, entry.batch = entry.batch, None
        assert batch is not None
        self._wake(entry)
        return entry, batch

    def retire(self, error: Exception) -> None:
        """Refuse what waits: another life of the sender was heard from."""
        for entry in self.entries.values():
            entry.give_back(error)

    def _close(self, first: int, last: int) -> None:
        """Forget numbers that the sender has the final answers of, except that they are closed."""
        if first > last or self.closed.covers(first, last):
            return
        self.closed.add(first, last)
        start, end = bisect_left(self._order, first), bisect_right(self._order, last)
        numbers = self._order[start:end]
        del self._order[start:end]
        for seq in numbers:
            entry = self.entries.pop(seq)
            self.after.pop(seq, None)
            entry.give_back(UnavailableError(f"number {seq} came after its sender had the final answer"))
            self._wake(entry)

    def _wake(self, entry: _Entry) -> None:
        self._ready.extend(entry.followers)
        entry.followers.clear()


class LinkReceiver:
    """Receive pushes of many links for one receiver.

    `eager`: work begins at once, without a task, which only a receiver may have that does not block. `alone` bounds the
    parts of a turn in which a batch that may kill the receiver is worked on, and nothing else.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        patience: float = 1.0,
        eager: bool = False,
        alone: Patience = Patience(),  # noqa: B008 - it is immutable
    ) -> None:
        self._receiver = receiver
        self._eager = eager
        self._patience = patience
        self._senders: dict[str, _Sender] = {}
        self._work = Work(partial(receiver.flush, True) if isinstance(receiver, Holding) else None)
        self._quarantine = Quarantine(self._work, self._apply_waiting, alone)
        self._applied = self._duplicates = 0

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Apply the batch, unless it was applied before, and return its answer.

        One that asks to be alone is answered with `Turn`, and applied when it comes again. Raises what the receiver
        raised, and `PastLifeError` for a push from a past life of its sender.
        """
        sender = self._sender_of(push)
        if push.seq in sender.closed:
            raise UnavailableError(f"{push} came after its sender had the final answer")
        key = Key(push.link, push.epoch, push.seq)
        if push.alone and not sender.entry(push.seq).is_applied and not self._quarantine.has_turn(key):
            return await self._quarantine.ask(key)
        if not push.alone:
            self._quarantine.hear(key)
        is_new = sender.entry(push.seq).answer is None
        self._duplicates += not is_new
        entry = sender.put(push.seq, push.after, batch)
        answer = entry.answer
        assert answer is not None
        self._apply_ready(sender)
        if is_new and entry.is_early:
            # A past life of this receiver may have answered the predecessor: then it never comes.
            asyncio.get_running_loop().call_later(self._patience, self._lose_patience, sender, push.seq)
        return await (self._hear_alone(key, answer) if push.alone else answer.wait())

    async def outcome(self, push: Push) -> Receipt:
        """Return the receipt of a batch that was answered with `Accepted`, for a sender in another process.

        Raises `UnavailableError` where this receiver does not know the batch: it must be pushed again. What the push
        says of other numbers is old by now, and counts for nothing.
        """
        sender = self._senders.get(push.link)
        if sender is None or sender.epoch != push.epoch:
            raise UnavailableError(f"{push} is not known here")
        return await self._outcome(sender.entries.get(push.seq))

    async def _outcome(self, entry: _Entry | None) -> Receipt:
        if entry is None or entry.outcome is None:
            raise UnavailableError("the batch is not known here any more")
        return await contained(asyncio.shield(entry.outcome))

    def statistics(self) -> LinkReceiverStatistics:
        """Return a snapshot of the counters."""
        answers = [entry.answer for sender in self._senders.values() for entry in sender.entries.values()]
        open_answers = sum(answer is not None and not answer.is_there for answer in answers)
        return LinkReceiverStatistics(self._applied, self._duplicates, open_answers)

    def _sender_of(self, push: Push) -> _Sender:
        sender = self._senders.get(push.link)
        if sender is not None and sender.epoch > push.epoch:
            raise PastLifeError(f"{push} comes from a past life of its sender", epoch=sender.epoch)
        if sender is None or sender.epoch < push.epoch:
            if sender is not None:
                sender.retire(PastLifeError(f"{push} comes from a later life of its sender", epoch=push.epoch))
            sender = self._senders[push.link] = _Sender(push.link, push.epoch)
        sender.learn(push)
        return sender

    def _lose_patience(self, sender: _Sender, seq: int) -> None:
        entry = sender.entries.get(seq)
        if entry is not None and entry.is_early and sender.waits_for(seq) is not None:
            entry.give_back(UnavailableError(f"what comes before number {seq} is missing"))

    async def _hear_alone(self, key: Key, answer: _Answer) -> Turn:
        """Return when a batch in its turn need not be alone any longer; raise what it failed with."""
        worked = asyncio.ensure_future(self._quarantine.wait_worked(key))
        answered = asyncio.ensure_future(answer.wait())
        try:
            await asyncio.wait((worked, answered), return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                if answered.exception() is not None:
                    self._quarantine.end(key)
                answered.result()
                await worked
            return Turn(alone=False)
        finally:
            for waiting in (worked, answered):
                waiting.cancel()

    def _apply_waiting(self) -> None:
        """Apply what had to wait for the end of a turn."""
        for sender in list(self._senders.values()):
            self._apply_ready(sender)

    def _apply_ready(self, sender: _Sender) -> None:
        while (seq := sender.next_ready()) is not None:
            key = Key(sender.link, sender.epoch, seq)
            if not self._quarantine.admits(key):
                return
            work = self._apply(*sender.begin(seq))
            applying = start_eagerly(work) if self._eager else asyncio.get_running_loop().create_task(work)
            self._work.begin(applying)
            self._quarantine.begin(key, applying)

    async def _apply(self, entry: _Entry, batch: Batch) -> None:
        self._applied += 1
        answer = entry.answer
        assert answer is not None
        try:
            result = await self._receiver.push(batch)
        except BaseException as error:
            entry.forget()  # a sender that pushes it again would hear the same each time
            answer.fail(as_exception(error))
            if is_ours(error):
                raise
        else:
            if isinstance(result, Receipt):
                answer.give(result)
            else:
                entry.outcome = asyncio.ensure_future(result.outcome())
                self._work.hold(entry.outcome)
                entry.outcome.add_done_callback(partial(_retrieved, entry))
                answer.give(Accepted(Deferred(self._outcome, entry)))


def _retrieved(entry: _Entry, outcome: asyncio.Future[Receipt]) -> None:
    """Mark a failure as seen: where the sender has gone nobody else asks for it. A push that follows tries again."""
    if outcome.cancelled() or outcome.exception() is not None:
        entry.forget()
