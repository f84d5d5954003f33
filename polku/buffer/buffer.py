"""Hold batches until every destination has them: one log, one outlet for each emitter.

A batch's life here: `push` → known already? answer as then → cut into stretches with the same routes → room made or
waited for in every outlet concerned → put into the log → held there (in memory at once, on disk after a commit) →
claimed by its outlets, each of which delivers it at its own pace → the last one releases it.

An outlet that is full and blocks holds up only what goes to it: the rest of the batch, and later batches for other
outlets, pass; what waits for it is put into the log for it alone, in order, when there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from itertools import chain

from msgspec.structs import replace

from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Receipt
from polku.buffer.copies import Copy, CopySearch, Found, Held
from polku.buffer.enqueuing import Enqueuer
from polku.buffer.log import Recovered, open_log
from polku.buffer.outlet import Outlet
from polku.buffer.outlets import OutletChange, OutletRules, Outlets
from polku.buffer.positions import PendingDelivery, describe_orphan
from polku.buffer.push_state import PushState
from polku.buffer.quota import Quota
from polku.buffer.remembered import Known, RememberedAnswers, StoredAnswer
from polku.buffer.routing import routed
from polku.buffer.statistics import BufferStatistics
from polku.buffer.strategy import BufferStrategy, Overflow
from polku.dead_letters import DeadLetters
from polku.hooks import close_each
from polku.link.link import Link
from polku.tap.point import TapPoint
from polku.tap.request import What

_LEAVE_SECONDS = 0.05  # between two looks at an outlet that leaves


class Buffer:
    """Keep batches in a log and feed the outlets."""

    def __init__(
        self,
        strategy: BufferStrategy,
        links: Mapping[str, Link],
        dead_letters: DeadLetters,
        *,
        overflow: Mapping[str, Overflow] | None = None,
        best_effort: Collection[str] = (),
        await_delivery: bool = False,
        formerly: Mapping[str, str] | None = None,
        always: Collection[str] = (),
    ) -> None:
        self.steps = ()
        self._dead_letters = dead_letters
        self._await_delivery = await_delivery
        self._log = open_log(strategy, final=not await_delivery, formerly=formerly)
        self._answered = RememberedAnswers()
        self._turn = asyncio.Lock()
        self._pending: dict[int, PendingDelivery] = {}  # batches whose senders wait for their delivery, by position
        self._replays: dict[asyncio.Future[Receipt], dict[str, int]] = {}  # events that lie in a file too, by outlet
        rules = OutletRules(dict(overflow or {}), frozenset(best_effort), frozenset(always))
        self._outlets = Outlets(strategy, rules, self._outlet)
        self._enqueuer = Enqueuer(self._log, self._outlets, dead_letters, self._turn, self._pending)
        self._outlets.add(links)

    @property
    def tap(self) -> TapPoint | None:
        """Where somebody watches what comes and goes."""
        return self._enqueuer.tap

    @tap.setter
    def tap(self, tap: TapPoint | None) -> None:
        self._enqueuer.tap = tap

    async def open(self) -> None:
        """Open the log and continue where it was closed; raises `JournalLockedError` where another process has it."""
        await self._log.open(tuple(self._outlets.by_name), self._recover)

    def start(self) -> None:
        """Begin to deliver."""
        for outlet in self._outlets.all:
            outlet.start()

    async def push(self, batch: Batch) -> Receipt | Accepted:
        """Hold a batch; return its receipt once it is held, or `Accepted` where senders wait for its delivery.

        Waits while an outlet that the batch goes to is full and its rule is `block`.
        """
        return await self._push(batch, awaits=self._await_delivery)

    async def replay(self, batch: Batch) -> Receipt | Accepted:
        """Hold a batch that also lies in a file, as dead letters do: in memory it is as safe once it is delivered."""
        answer = await self._push(batch, awaits=self._await_delivery or not self._outlets.strategy.path)
        if isinstance(answer, Accepted) and not self._outlets.strategy.path:
            outcome = asyncio.ensure_future(answer.outcome())
            self._replays[outcome] = dict.fromkeys(batch.routes or (), len(batch))
            outcome.add_done_callback(self._replayed)
        return answer

    def _replayed(self, outcome: asyncio.Future[Receipt]) -> None:
        if not outcome.cancelled():  # else it is on its way still, and nobody waits for it
            self._replays.pop(outcome, None)

    async def _push(self, batch: Batch, *, awaits: bool) -> Receipt | Accepted:
        late: Sequence[asyncio.Task[None]] = ()
        async with self._turn:
            pieces = batch.runs()
            tap = self._enqueuer.tap
            if tap is not None:
                tap.show(What.IN, batch)
            identity = None if batch.identity is None else routed(batch.identity, pieces)
            known = self._answered.get(identity, batch)
            if known is None or isinstance(known, PushState):
                push = known or PushState(identity, awaits=awaits)
                known = await self._enqueuer.take_in(pieces, push, wants_fates=batch.wants_fates)
                self._answered.put(identity, known)
                late = push.late
            else:
                self._enqueuer.counts.duplicates += 1
                if tap is not None:
                    tap.show(What.DROPPED, batch, reason="the same batch came again, and is here already")
        if isinstance(known, Receipt):
            return known
        if not awaits:
            return await asyncio.shield(known)
        if late:
            await asyncio.wait(late)
        return Accepted(known)

    @property
    def outlets(self) -> Mapping[str, Outlet]:
        """The outlets by the names of their emitters."""
        return self._outlets.by_name

    async def flush(self, everything: bool = True) -> None:
        """Let emitters that collect complete what they have, at a drain: senders may wait for it."""
        for outlet in self._outlets.every:
            outlet.flush()

    async def rearrange(
        self, strategy: BufferStrategy, rules: OutletRules, change: OutletChange, *, seconds: float
    ) -> None:
        """Have other outlets, or other rules for them, from the next batch on; what is held stays.

        `change.links` are those of outlets that are new. What waits for an outlet that is renamed waits for it under
        its new name. One that leaves delivers what it has; then `forget` ends it. Raises `JournalError`, and
        `TimeoutError` where a batch is on its way in for longer than `seconds`; then all is as it was.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(seconds):
                await stack.enter_async_context(self._turn)
            renamed = change.renamed
            former = {old: new for new, old in renamed.items()}
            names = [former.get(name, name) for name in self._outlets.names]
            await self._log.arrange([*names, *change.links], renamed)
            self._outlets.choose(strategy, rules, change.leaving)
            for old, new in former.items():
                self._outlets.rename(old, new)
                for pending in self._pending.values():
                    pending.rename(old, new)
                self._answered.rename(old, new)
            self._outlets.leave(change.leaving)
            self._outlets.add(change.links)
            for name in change.links:
                self._outlets[name].start()

    def outlet(self, name: str) -> Outlet:
        """Return the outlet of an emitter; raises `KeyError`."""
        return self._outlets[name]

    async def forget(self, name: str) -> None:
        """End an outlet that leaves, once it has delivered what it has; raises `JournalError` where it cannot yet."""
        outlet = self._outlets.leaving[name]
        while outlet.usage.lag or not outlet.queue.is_over:
            await outlet.drain()
            await asyncio.sleep(_LEAVE_SECONDS)
        async with self._turn:
            await self._log.forget(name)
            self._outlets.forget(name)
        await outlet.close()

    async def drain(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await asyncio.gather(*(outlet.drain() for outlet in self._outlets.every))

    def halt(self) -> None:
        """Hand nothing more to emitters."""
        for outlet in self._outlets.every:
            outlet.halt()

    async def settled(self) -> None:
        """Return, after `halt`, when everything that is in flight to emitters has its answer."""
        await asyncio.gather(*(outlet.settled() for outlet in self._outlets.every))

    async def close(self) -> None:
        """Stop delivering; what is held stays held."""
        await self._enqueuer.close()
        outlets = [(f"outlet {outlet.name!r}", outlet.close) for outlet in self._outlets.every]
        await close_each([*outlets, ("the log", self._log.close)])

    async def find(self, event_id: str) -> Found:
        """Return the copies of an event that wait or are in flight, and those of the latest that were delivered.

        Emitters that leave have some, too, and names in the journal for which there is no emitter.
        """
        outlets = self._outlets.every
        held = {outlet.name: outlet.held() for outlet in outlets}
        gone = {one.name: Held((), (), one.cursor, behind=True) for one in self._log.orphans if one.name not in held}
        found = await CopySearch(self._log, event_id).look({**held, **gone})
        confirmed = [(outlet.name, time_ns) for outlet in outlets for time_ns in outlet.delivered.times(event_id)]
        delivered = [Copy(f"emitter:{name}", "delivered", time_ns) for name, time_ns in confirmed]
        left = {f"emitter:{name}": "gone" for name in gone}
        left |= {f"emitter:{name}": "leaving" for name in self._outlets.leaving}
        counts = {outlet.name: outlet.statistics() for outlet in outlets}
        drops = {f"emitter:{name}": (str(one.overflow), one.dropped) for name, one in counts.items() if one.dropped}
        copies = (copy._replace(left=left.get(copy.part, "")) for copy in (*found.copies, *delivered))
        return found._replace(copies=tuple(copies), drops=drops)

    def statistics(self) -> BufferStatistics:
        """Return a snapshot of the counters."""
        events, size = self._log.size
        strategy, counts = self._outlets.strategy, self._enqueuer.counts
        outlets = {outlet.name: outlet.statistics() for outlet in self._outlets.every}
        for name, count in chain.from_iterable(one.items() for one in list(self._replays.values())):
            if name in outlets:
                outlets[name] = replace(outlets[name], replayed=outlets[name].replayed + count)
        full = [outlet for outlet in self._outlets.all if outlets[outlet.name].is_full]
        return BufferStatistics(
            events,
            size,
            strategy.capacity,
            counts.received,
            counts.duplicates,
            counts.overflowed,
            counts.unroutable,
            outlets,
            self._log.fault,
            self._dead_letters.statistics(),
            {orphan.name: describe_orphan(orphan, strategy.path) for orphan in self._log.orphans},
            tuple(outlet.name for outlet in full if self._outlets.holds_up(outlet)),
            counts.bytes_received,
            self._log.commits,
        )

    def _outlet(self, name: str, link: Link, quota: Quota, *, is_waited_for: bool) -> Outlet:
        pending = self._pending if is_waited_for else {}
        bury, release = self._dead_letters.bury, self._enqueuer.release
        return Outlet(name, link, quota, self._log, pending, bury=bury, release=release)

    def _recover(self, recovered: Recovered) -> None:
        """Take over what a log held when it was opened."""
        for name, state in recovered.outlets.items():
            self._outlets[name].recover(state)
        for answer in recovered.answers:
            self._answered.put(answer.identity, self._recovered_answer(answer, recovered))

    def _recovered_answer(self, answer: StoredAnswer, recovered: Recovered) -> Known:
        waits = self._recovered_waits(answer, recovered) if self._await_delivery else []
        push = PushState(
            answer.identity, list(answer.refused), waits, pieces=list(answer.pieces), awaits=self._await_delivery
        )
        if answer.taken is not None:
            push.taken, push.resumed = dict(answer.taken), True
            return push
        return self._enqueuer.receipt(answer.refused, ()) if push.is_settled else self._enqueuer.receipt_later(push)

    def _recovered_waits(self, answer: StoredAnswer, recovered: Recovered) -> list[PendingDelivery]:
        waits = []
        outlets = self._outlets
        for position, events, takers in recovered.takers(answer.first, answer.last):
            place = answer.place(position)
            owners = [name for name in takers if name in outlets.by_name and name not in outlets.best_effort]
            if owners and place is not None:
                pending = self._enqueuer.register_pending(position, owners, events, answer.identity, place)
                pending.is_held = True
                waits.append(pending)
        return waits
