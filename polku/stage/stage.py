"""A run of neighbouring middleware that works on one batch at a time and hands on what is left.

A stage answers a batch when the next actor has answered. Where something further on holds events back (an Aggregator
here or behind, a buffer that waits for delivery), it answers in two steps: `push` returns once the next actor has
room again, with an awaitable of the outcome. Batches are worked on and handed on in the order of their arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import count
from typing import TYPE_CHECKING, Any

from polku.aio.eager import start_eagerly
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join_traces
from polku.batch.fates import Account, account, merged
from polku.batch.lineage import trace_back
from polku.batch.receipt import Accepted, Answer, Counts, Fate, Receipt, Refusal, weightier
from polku.busy import Busy
from polku.clock import Clock
from polku.codes import Code
from polku.contracts import DeadEvent, Flush, Follows, Holder, Outcome, Step
from polku.dead_letters import DeadLetters
from polku.errors import DrainingError
from polku.event.v1.event_pb2 import Event
from polku.histogram import Histogram
from polku.hooks import CLOSE_SECONDS, call_hook, close_each, start_hook
from polku.link.link import Link, Outgoing
from polku.link.local import LocalLink
from polku.log import RepeatedLog
from polku.recent_errors import RecentErrors
from polku.stage.statistics import StageStatistics
from polku.stage.trail import Passed, Refused, outgoing, show, traced
from polku.tap.point import TapPoint
from polku.tap.request import What
from polku.text import named, trace
from polku.usercode import as_exception, contained, is_ours

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from polku.tracing.tracer import StageSpan, Tracer

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_TIMER = "flush timer"
_UNKNOWN = "an event of the same id, which came first, was not answered; send it again"

_NOTHING = contextlib.nullcontext()


@dataclass(slots=True)
class _Holding:
    """The events of one batch that a holder keeps, and what became of those it let go."""

    remaining: int
    done: asyncio.Future[Receipt]
    counted: bool
    enqueued_ns: int
    trace: str
    refused: list[Refusal] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)


class Stage:
    """Run steps on batches and push what goes on down a link; `reads_routes` where the buffer comes next."""

    def __init__(
        self,
        steps: Sequence[Step | Holder],
        link: Outgoing,
        dead_letters: DeadLetters,
        clock: Clock,
        *,
        two_steps: bool = False,
        reads_routes: bool = True,
        name: str = "",
        tracer: Tracer | None = None,
    ) -> None:
        self._name = name
        self._tracer = tracer
        self._span: StageSpan | None = None  # of the batch that is worked on
        self._steps = tuple(steps)
        self.steps = _distinct([step.name for step in steps])
        self.tap: TapPoint | None = None
        self._numbers = tuple(range(len(steps)))  # of the steps: one that takes another's place has its number
        self._heirs: dict[int, tuple[Step | Holder, Step | Holder]] = {}  # by the id of the step that had its place
        self._told: list[tuple[Step | Holder, int, frozenset[int]]] | None = None  # what steps heard during a move
        self._link = link
        self._dead_letters = dead_letters
        self._clock = clock
        self._behind_holds = two_steps
        self._two_steps = two_steps or bool(self._holders())
        self._reads_routes = reads_routes
        self._opened: list[Step | Holder] = []
        self._turn = asyncio.Lock()
        self._held_something = asyncio.Event()
        self._number = 0
        self._open: set[int] = set()  # numbers of batches without an outcome
        self._followers: dict[tuple[int, int], asyncio.Future[Refused]] = {}  # by the batch's number and the step's
        self._holdings: dict[int, _Holding] = {}
        self._tasks = TaskSet("stage")
        self._latest = Receipt()
        self._batches = self._received = self._forwarded = self._dead = 0
        self._counts: dict[str, int] = {}
        self._step, self._since = "", 0.0
        self._errors = RecentErrors()
        self._busy = Busy(clock.monotonic)
        self._waits = Histogram()

    async def start(self) -> None:
        """Start the middleware, and begin to flush held events when they are due."""
        for step in self._steps:
            self._opened.append(step)
            await start_hook(f"middleware {step.name!r}", step)
        self.begin()

    def begin(self) -> None:
        """Begin to flush held events when they are due, where the middleware is started."""
        if self._holders() and not len(self._tasks):
            self._tasks.keep_alive(_TIMER, self._flush_when_due)

    async def push(self, batch: Batch) -> Answer:
        """Work on a batch and hand it on; see the module for when this returns and what."""
        came = self._clock.monotonic()
        async with self._turn:
            self._batches += 1
            self._received += len(batch)
            self._waits.record(self._clock.monotonic() - came, len(batch))
            self._busy.begin()
            try:
                outcome = await (self._advance(batch, 0) if self._tracer is None else self._trace(self._tracer, batch))
            finally:
                self._busy.end()
            if self._two_steps:
                await self._link.wait_room()
                return Accepted(outcome)
        return await outcome

    async def _trace(self, tracer: Tracer, batch: Batch) -> asyncio.Future[Receipt]:
        """Advance a batch within a span."""
        forwarded, dead = self._forwarded, self._dead
        with tracer.stage(self._name, batch) as self._span:
            try:
                outcome = await self._advance(self._span.batch, 0)
                self._span.settle(self._forwarded - forwarded, self._dead - dead)
            finally:
                self._span = None
        return outcome

    async def flush(self, everything: bool = True) -> None:
        """Release everything that is held: at a drain, once nothing more comes in."""
        async with self._turn:
            for position, step in enumerate(self._steps):
                if is_holder(step):
                    await self._release(step.flush(everything=True), position + 1)

    @property
    def middleware(self) -> tuple[Step | Holder, ...]:
        """The running middleware, in order."""
        return self._steps

    @property
    def batches_open(self) -> int:
        """The number of batches that have no outcome yet."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Work on no batch within the block; what comes meanwhile waits, in order."""
        async with self._turn:
            self.begin_move()
            try:
                yield
            finally:
                self._told = None

    def begin_move(self) -> None:
        """Take note of what steps are told from now on: within `at_rest`, when their state is about to be copied."""
        self._told = []

    async def take_steps(
        self, steps: Sequence[Step | Holder], heirs: Sequence[tuple[Step | Holder, Step | Holder]]
    ) -> None:
        """Go on with other steps, which are started: within `at_rest`.

        Steps that stay are the same objects. Of `heirs` the first is a step that goes, the second what takes its place
        with its state: it hears what becomes of the batches that the first had. What other holders that go keep is
        released first, through the steps that were there. The caller closes what goes.
        """
        successors = {id(old): new for old, new in heirs}
        staying = {id(step) for step in steps}
        for position, step in enumerate(self._steps):
            if is_holder(step) and id(step) not in staying and id(step) not in successors:
                await self._release(step.flush(everything=True), position + 1)
        numbers = {id(successors.get(id(step), step)): n for step, n in zip(self._steps, self._numbers, strict=True)}
        fresh = count(max(self._numbers, default=-1) + 1)
        for step, *told in self._told or ():
            if id(step) in successors:
                heir: Any = successors[id(step)]
                heir.settled(*told)
        if self._open:
            self._heirs |= {id(old): (old, new) for old, new in heirs}
        self._numbers = tuple(numbers[id(step)] if id(step) in numbers else next(fresh) for step in steps)
        self._steps, self._opened = tuple(steps), list(steps)
        self.steps = _distinct([step.name for step in steps])
        self._two_steps = self._behind_holds or bool(self._holders())
        if self._holders():
            if not len(self._tasks):
                self._tasks.keep_alive(_TIMER, self._flush_when_due)
            self._held_something.set()

    async def release(self, step: Holder, flushes: Sequence[Flush]) -> None:
        """Hand on what a holder of this stage lets go: within `at_rest`."""
        await self._release(flushes, self._steps.index(step) + 1)

    def adopt(self) -> None:
        """Begin with middleware that is started already."""
        self._opened = list(self._steps)
        self.begin()

    def abandon(self) -> None:
        """Leave the middleware to another stage: `close` does not close it."""
        self._opened.clear()

    def _holders(self) -> list[tuple[int, Holder]]:
        return [(position, step) for position, step in enumerate(self._steps) if is_holder(step)]

    def _heir(self, step: Step | Holder) -> Step | Holder:
        """Return what has a step's place and state now: often the step itself."""
        while id(step) in self._heirs:
            step = self._heirs[id(step)][1]
        return step

    async def close(self) -> None:
        """Stop the flush timer, close the middleware and the link."""
        await self._tasks.close()
        for holding in self._holdings.values():
            if not holding.done.done():
                holding.done.set_exception(DrainingError("the stage was closed"))
                holding.done.exception()  # its sender may be closed too
        closing: list[tuple[str, Callable[[], Awaitable[None]]]] = [("the link", self._link.close)]
        for step in self._opened:
            closing.append((f"middleware {step.name!r}", partial(call_hook, step, "close", seconds=CLOSE_SECONDS)))
        await close_each(closing)

    def statistics(self) -> StageStatistics:
        """Return a snapshot of the counters."""
        held = sum(step.held[0] for step in self._steps if is_holder(step))
        return StageStatistics(
            self._batches,
            self._received,
            self._forwarded,
            self._dead,
            held,
            Counts(**self._counts),
            self._step,
            self._since,
            self._tasks.fault or self._letters_fault(),
            errors=self._errors.latest(),
            link=self._link.statistics() if isinstance(self._link, (Link, LocalLink)) else None,
            work=self._busy.work(),
            waits=self._waits.distribution(),
            candidates=tuple(step.candidate_counts() for step in self._steps if hasattr(step, "candidate_counts")),
        )

    def _letters_fault(self) -> str:
        fault = self._dead_letters.statistics().fault
        return f"its dead letters cannot be stored: {fault}" if fault else ""

    async def _advance(self, batch: Batch, position: int, *, inner: bool = False) -> asyncio.Future[Receipt]:
        """Run the steps from a position on, hand on what is left, and return the future of the batch's receipt."""
        self._number += 1
        number = self._number
        self._open.add(number)
        trail: list[Passed] = []
        letters: list[Awaitable[None]] = []
        try:
            wait = await self._run(batch, number, position, trail, letters)
        except BaseException as error:
            # The steps that it has passed must hear of it: of a retry a Deduplicator would say that it is there.
            self._holdings.pop(number, None)
            settled = start_eagerly(self._settle(number, failed(error), trail, letters, inner=inner))
            if is_ours(error):
                settled.add_done_callback(_seen)
                raise
            return settled
        return start_eagerly(self._settle(number, wait, trail, letters, inner=inner))

    async def _run(
        self, batch: Batch, number: int, position: int, trail: list[Passed], letters: list[Awaitable[None]]
    ) -> Awaitable[Receipt] | None:
        """Run the steps and write down which the batch has passed; return the awaitable of what its rest became."""
        wait: Awaitable[Receipt] | None = None
        changed = False
        steps = self._steps[position:]
        events = batch.events if steps else []
        for index, step in enumerate(steps, position):
            if not events:
                break
            changed = changed or not getattr(step, "reads_only", False)
            if self.tap is not None:
                self.tap.show(What.IN, events, step=self.steps[index])
            if is_holder(step):
                wait = await self._hold(step, batch, events, number, index)
                events = []
                break
            outcome = await self._work(step, events, number)
            if self.tap is not None:
                show(self.tap, self.steps[index], events, outcome, step.drop_reason)
            counted = account(events, outcome, step.drop_reason) if batch.counted else None
            self._count(step, events, outcome, counted)
            letters += self._bury(outcome)
            own = self._numbers[index]
            follows = [(follow, self._follow(follow, number, own)) for follow in outcome.follows]
            trail.append(Passed(own, step, events, outcome, follows, counted))
            events = outcome.events
        if events or not steps:
            wait = self._hand_on(outgoing(batch, events, trail, changed=changed))
        return wait

    def _follow(self, follow: Follows, number: int, step: int) -> asyncio.Future[Refused] | None:
        """Return the future of what is refused of the followed event's batch; None: its outcome is this batch's own."""
        if follow.batch == number:
            return None
        key = (follow.batch, step)
        if key not in self._followers:
            self._followers[key] = asyncio.get_running_loop().create_future()
        return self._followers[key]

    async def _work(self, step: Step, events: list[Event], number: int) -> Outcome:
        self._step, self._since = step.name, self._clock.monotonic()
        try:
            with self._span.current() if self._span is not None else _NOTHING:
                result = step.process(events, number)
                if isinstance(result, Outcome):
                    return result
                # A task of its own: user code may use `asyncio.timeout`, for which who brought the batch is the wrong
                # task.
                work = asyncio.ensure_future(contained(result))
            return await work
        except BaseException as error:
            if is_ours(error):
                raise
            reason, detail = f"{step.name}: {named(error)}", trace(error)
            text = "%s failed on a batch of %d events"
            _REPEATED.exception(step.name, text, step.name, len(events), component=self._name)
            refusal = Refusal("", Code.MIDDLEWARE_ERROR, reason)
            dead = [DeadEvent(e, refusal._replace(event_id=e.id, position=i), detail) for i, e in enumerate(events)]
            return Outcome([], dead)
        finally:
            self._step = ""

    def _count(self, step: Step, events: list[Event], outcome: Outcome, counted: Account | None) -> None:
        if outcome.refused:
            self._dead += len(outcome.refused)
        if outcome.events is not events:
            gone = len(events) - len(outcome.events) - len(outcome.refused) if counted is None else counted.gone
            if gone > 0:
                self._counts[step.drop_reason] = self._counts.get(step.drop_reason, 0) + gone

    def _bury(self, outcome: Outcome) -> list[Awaitable[None]]:
        """Make dead letters of what a step refused; return what is done once they are stored."""
        if not outcome.refused:
            return []
        self._errors.add(outcome.refused[0].refusal.message)
        stored = self._dead_letters.bury_events(outcome.refused)
        return [] if stored is None else [stored]

    def _hand_on(self, batch: Batch) -> asyncio.Future[Receipt]:
        self._forwarded += len(batch)
        if self._reads_routes and batch.routes is None:
            batch.read_routes()
        return self._link.push_nowait(batch)

    async def _settle(
        self,
        number: int,
        wait: Awaitable[Receipt] | None,
        trail: Sequence[Passed],
        letters: Sequence[Awaitable[None]],
        *,
        inner: bool,
    ) -> Receipt:
        """Wait for what became of a batch and tell the steps; what failed as a whole counts as refused as a whole."""
        receipt = self._latest
        settled = len(trail)
        try:
            if wait is not None:
                receipt = await wait
                self._latest = receipt._replace(refused=(), output=(), fates=())
            fates: Sequence[Fate] = receipt.fates
            refused = {refusal.position: refusal for refusal in receipt.refused}
            while settled:
                passed = trail[settled - 1]
                refused = trace_back(passed.given, passed.outcome, refused)
                if passed.account is not None:
                    fates = passed.account.trace_back(fates)
                for follow, first in passed.follows:
                    await _add_followed(refused, follow, first)
                settled -= 1
                self._tell(number, passed, refused)
            for stored in letters:
                await stored
        finally:
            for passed in trail[:settled]:
                self._tell(number, passed, None)
            self._open.discard(number)
            if self._heirs and not self._open:
                self._heirs.clear()
        # What a holder let go is answered inside this stage: only the outer answer adds the stage's own counts.
        counts = receipt.counts if inner else receipt.counts.plus(Counts(**self._counts))
        output = tuple(traced(made, trail) for made in receipt.output)
        refusals = tuple(refused[at] for at in sorted(refused))
        return receipt._replace(
            refused=refusals, counts=counts, output=output, fates=tuple(sorted(fates)) if fates else ()
        )

    def _tell(self, number: int, passed: Passed, refused: Refused | None) -> None:
        """Tell a step, and who follows, what was refused of what it was given; None: nobody knows."""
        everything = range(len(passed.given))
        step: Any = self._heir(passed.step) if self._heirs else passed.step
        told = frozenset(everything if refused is None else refused)
        step.settled(number, told)
        if self._told is not None:
            self._told.append((step, number, told))
        following = self._followers.pop((number, passed.number), None)
        if following is None or following.done():
            return
        if refused is None:
            refused = {at: Refusal(passed.given[at].id, Code.UNAVAILABLE, _UNKNOWN, position=at) for at in everything}
        following.set_result(refused)

    async def _hold(
        self, holder: Holder, batch: Batch, events: list[Event], number: int, position: int
    ) -> asyncio.Future[Receipt]:
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._holdings[number] = _Holding(len(events), done, batch.counted, batch.enqueued_ns, batch.trace)
        await self._release(holder.hold(events, number), position + 1)
        if any(held > limit for held, limit in zip(holder.held, holder.limit, strict=True)):
            await self._release(holder.flush(everything=True), position + 1)
        self._held_something.set()
        return done

    async def _release(self, flushes: Sequence[Flush], position: int) -> None:
        for flush in flushes:
            batch = Batch.from_events(flush.events)
            if self.tap is not None:
                self.tap.show(What.OUT, batch, step=self.steps[position - 1])
            numbers = {part.batch for part in flush.parts}
            held = [self._holdings[number] for number in numbers if number in self._holdings]
            batch.counted = any(holding.counted for holding in held)
            batch.enqueued_ns = min((holding.enqueued_ns for holding in held), default=0)
            batch.trace = join_traces([holding.trace for holding in held if holding.trace])
            outcome = await self._advance(batch, position, inner=True)
            counted = merged(len(flush.events), len(flush.parts)) if batch.counted else None
            self._tasks.start("answers", self._discharge(flush, outcome, counted))

    async def _discharge(self, flush: Flush, outcome: asyncio.Future[Receipt], counted: Account | None) -> None:
        """Tell the batches that a flush was made of what became of it."""
        try:
            receipt = await outcome
        except BaseException as error:
            if is_ours(error):
                raise
            for part in flush.parts:
                holding = self._holdings.pop(part.batch, None)
                if holding is not None and not holding.done.done():
                    holding.done.set_exception(as_exception(error))
            return
        why = reduce(weightier, receipt.refused) if receipt.refused else None
        for at, what, number in [] if counted is None else counted.trace_back(receipt.fates):
            part = flush.parts[at]
            if part.batch in self._holdings:
                self._holdings[part.batch].fates.append((part.position, what, number))
        for part in flush.parts:
            holding = self._holdings.get(part.batch)
            if holding is None:
                continue
            if why is not None:
                holding.refused.append(why._replace(position=part.position))
            holding.remaining -= 1
            if holding.remaining == 0:
                del self._holdings[part.batch]
                answer = receipt._replace(refused=tuple(holding.refused), fates=tuple(holding.fates))
                holding.done.set_result(answer)

    async def _flush_when_due(self) -> None:
        while True:
            due = min((at for _, holder in self._holders() if (at := holder.due()) is not None), default=None)
            self._held_something.clear()
            if due is None:
                self._tasks.works(_TIMER)
            wait = None if due is None else max(0.0, due - self._clock.monotonic())
            if wait != 0.0:
                try:
                    await asyncio.wait_for(self._held_something.wait(), wait)
                except TimeoutError:
                    pass
                else:
                    continue
            async with self._turn:
                await self._flush_each(self._holders())
            self._tasks.works(_TIMER)

    async def _flush_each(self, holders: Sequence[tuple[int, Holder]]) -> None:
        """Have every holder release what is due; raise what one failed with once the others have."""
        fault: BaseException | None = None
        for position, holder in holders:
            try:
                await self._release(holder.flush(), position + 1)
            except BaseException as error:
                if is_ours(error):
                    raise
                fault = error
        if fault is not None:
            raise fault


def _seen(settled: asyncio.Future[Receipt]) -> None:
    if not settled.cancelled():
        settled.exception()


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of steps, each of which has one of its own."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(found)


def failed(error: BaseException) -> asyncio.Future[Receipt]:
    """Return the future of a receipt that there will never be."""
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    future.set_exception(as_exception(error))
    return future


async def _add_followed(refused: Refused, follow: Follows, first: asyncio.Future[Refused] | None) -> None:
    """Answer a duplicate when the first one is, and as it is; without a future that stands in the same batch."""
    others = refused if first is None else await asyncio.shield(first)
    if follow.first in others:
        refused[follow.position] = others[follow.first]._replace(position=follow.position, letter=False)


def is_holder(step: Step | Holder) -> TypeIs[Holder]:
    """Return whether a step keeps events back."""
    return hasattr(step, "hold")
