"""The actor around one stage of middleware."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import ray
from msgspec.structs import replace

from polku.actors.calls import KeepsDeadLetters, ReceivesBatches
from polku.actors.options import ACTOR
from polku.actors.shell import started, unpack
from polku.actors.target import PeerConnection, Target, connect
from polku.actors.wire import pack_answer, unpack_push
from polku.dead_letters import DeadLetters
from polku.errors import ChangeError, UnavailableError
from polku.link.link import Link, Outgoing
from polku.link.receiver import LinkReceiver
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import build_dead_letters, build_stage, in_partition, partition_plan
from polku.runtime.lane import single
from polku.stage.fork import Fork
from polku.stage.holding import is_holder
from polku.stage.key_space import KeySpace
from polku.stage.replicas import ReplyLink
from polku.stage.stage import Stage
from polku.stage.statistics import StageStatistics
from polku.tap.point import Tapped
from polku.text import named


class _WayOut(NamedTuple):
    """A link to what comes next, and how that was reached: `of` a lane (0: the stage's own)."""

    lane: int
    link: Link
    connection: PeerConnection


class StageShell(KeepsDeadLetters, ReceivesBatches):
    """Receive batches, run the middleware on them, push on what is left."""

    async def open(self) -> None:
        """Build the middleware and start it."""
        self._plan: Plan
        self._stage_plan: StagePlan
        self._behind: Target | None
        self._part: str  # its own name, or that of one of its partitions
        self._plan, self._stage_plan, self._behind, self._part = unpack(self._packed)
        self.redaction = self._plan.redaction
        self._fork: Fork | None = None  # where lanes share the stage
        self._ways: list[_WayOut] = []
        self._opened.push_async_callback(self._disconnect)
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        self._opened.push_async_callback(self._dead_letters.close)
        stage_plan = in_partition(self._stage_plan, self._part)
        self._stage: Stage = build_stage(self._plan, stage_plan, self._way_out(), self._dead_letters)
        self._receiver = LinkReceiver(self._stage, eager=True)
        self._opened.push_async_callback(self._stage.close)
        await self._stage.start()

    async def push(self, head: bytes, payload: bytes) -> bytes:
        """Answer when the next actor has answered."""
        if not self._started:
            await self.ensure_started()
        push, batch = unpack_push(head, payload)
        if self._fork is not None and not await self._fork.hears(push.link):
            raise UnavailableError(f"{push} comes from a lane that is lost")
        return pack_answer(await self._receiver.push(push, batch))

    @started
    async def serve(self, lanes: frozenset[int], leaving: frozenset[int] = frozenset()) -> bool:
        """Serve these lanes alone; return whether something of another is here, which waits for it.

        Those that are `leaving` get what came from them, and nothing else.
        """
        return self._fork is not None and self._fork.serve(lanes, leaving)

    @started
    async def open_for(self, lane: int) -> int:
        """Return how many batches wait for a lane, or for its answer."""
        return 0 if self._fork is None else self._fork.open(lane)

    @started
    async def snapshot(self, positions: Sequence[int]) -> dict[int, bytes]:
        """Return the state of middleware by its position; raises `ChangeError` where it cannot be had."""
        states = {}
        for position in positions:
            step: Any = self._stage.middleware[position]
            try:
                states[position] = pickle.dumps(step.snapshot())
            except Exception as error:
                raise ChangeError([f"the state of {step.name} cannot be moved: {named(error)}"]) from None
        return states

    @started
    async def restore(self, states: Mapping[int, bytes]) -> None:
        """Take over the state of middleware, by its position: before the first batch; raises `ChangeError`."""
        for position, state in states.items():
            step: Any = self._stage.middleware[position]
            try:
                flushes = step.restore(pickle.loads(state))
            except Exception as error:
                raise ChangeError([f"the state of {step.name} cannot be moved: {named(error)}"]) from None
            if is_holder(step) and flushes:
                await self._stage.release(step, flushes)

    @started
    async def shares(self, position: int, partitions: int) -> list[bytes]:
        """Return the state of middleware, divided by its keys for that many partitions; raises `ChangeError`."""
        step: Any = self._stage.middleware[position]
        component: Any = self._stage_plan.middleware[position].component
        try:
            states = component.split_state(step.snapshot(), partitions, KeySpace(partitions).partition_of)
            return [pickle.dumps(state) for state in states]
        except Exception as error:
            raise ChangeError([f"the state of {step.name} cannot be moved: {named(error)}"]) from None

    @started
    async def restore_shares(self, position: int, shares: Sequence[bytes]) -> None:
        """Take over the state of middleware of which each partition before had a share; raises `ChangeError`."""
        component: Any = self._stage_plan.middleware[position].component
        try:
            state = pickle.dumps(component.merge_states(list(map(pickle.loads, shares))))
        except Exception as error:
            name = self._stage.middleware[position].name
            raise ChangeError([f"the state of {name} cannot be moved: {named(error)}"]) from None
        await self.restore({position: state})

    @started
    async def change(self, number: int, packed: bytes) -> bool:
        """Hand on to others from now on; return False while something that was handed on has no final answer."""
        if number == self._number:
            return True
        if any(way.link.open for way in self._ways):
            return False
        self.take_over(number, packed)
        self._plan, self._stage_plan, self._behind, self._part = unpack(packed)
        before, self._ways = self._ways, []
        for way in before:
            plan, target = self._next_of(way.lane)
            connection = connect(plan, target, self._dead_letters)
            way.link.pause()
            way.link.lead_to(connection.peer, single(self._plan), eager=False)
            way.link.resume()
            self._ways.append(way._replace(connection=connection))
        for way in before:
            await way.connection.close()
        return True

    @started
    async def resize(self, number: int, packed: bytes) -> int:
        """Give batches to other replicas of the next stage from now on; return how many those that go still have."""
        if number < self._number:  # a call whose answer was given up, and that comes behind a later one
            return 0
        self._number, self._packed = number, packed
        self._plan, self._stage_plan, self._behind, self._part = unpack(packed)
        return sum([await way.connection.resize(self._next_of(way.lane)[1]) for way in self._ways])

    @started
    async def statistics(self) -> StageStatistics:
        """Return a snapshot of the counters."""
        return replace(self._stage.statistics(), letters=self._dead_letters.statistics())

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the stage, whose steps show their events."""
        return {part: self._stage}

    @started
    async def flush(self) -> None:
        """Let go of everything that is held."""
        await self._stage.flush()

    def _way_out(self) -> Outgoing:
        """Return the link to what comes next: none in a replica, one, or, where lanes share the stage, one each."""
        if self._behind is None:
            return ReplyLink()
        if not self._stage_plan.shared:
            return self._link(0)
        self._fork = Fork(f"{self._plan.name}/lane-", self._link, told=self._plan.per_node)
        return self._fork

    def _link(self, lane: int) -> Link:
        plan, target = self._next_of(lane)
        connection = connect(plan, target, self._dead_letters)
        # What comes in was joined by the intake already; passed on one by one, batches keep their identity, by which
        # the buffer knows those that come a second time after a restart of this actor.
        bury = partial(self._dead_letters.bury, "")
        name = f"{plan.name}/{self._stage_plan.name}"
        link = Link(name, connection.peer, window=single(self._plan), bury=bury)
        self._ways.append(_WayOut(lane, link, connection))
        return link

    def _next_of(self, lane: int) -> tuple[Plan, Target]:
        """Return what comes next, and the plan with the names of its lane, or of this partition there."""
        assert self._behind is not None
        plan = partition_plan(self._plan.lane(lane) if lane else self._plan, self._stage_plan, self._part)
        return plan, self._behind.in_lane(lane) if lane else self._behind

    async def _disconnect(self) -> None:
        for way in self._ways:
            await way.connection.close()


StageActor = ray.remote(**ACTOR)(StageShell)
