"""The actor around one stage of middleware."""

from __future__ import annotations

from functools import partial

import ray

from polku.actors.options import ACTOR
from polku.actors.shell import Shell, unpack
from polku.actors.target import Target, connect
from polku.actors.wire import pack_answer, unpack_push
from polku.batch.receipt import Receipt
from polku.dead_letters import DeadLetter, DeadLetters
from polku.errors import UnavailableError
from polku.link.link import Link, Outgoing, Push
from polku.link.receiver import LinkReceiver
from polku.plan import Plan, StagePlan
from polku.runtime.assembly import build_dead_letters, build_stage
from polku.runtime.lane import single
from polku.stage.fork import Fork
from polku.stage.replicas import Reply
from polku.stage.stage import Stage, StageStatistics
from polku.tap.point import Tapped


class StageShell(Shell):
    """Receive batches, run the middleware on them, push on what is left."""

    async def open(self) -> None:
        """Build the middleware and start it."""
        self._plan: Plan
        self._stage_plan: StagePlan
        self._behind: Target | None
        self._plan, self._stage_plan, self._behind = unpack(self._packed)
        self.redaction = self._plan.redaction
        self._fork: Fork | None = None  # where lanes share the stage
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        self._opened.push_async_callback(self._dead_letters.close)
        self._stage: Stage = build_stage(self._plan, self._stage_plan, self._way_out(), self._dead_letters)
        self._receiver = LinkReceiver(self._stage, eager=True)
        self._opened.push_async_callback(self._stage.close)
        await self._stage.start()

    async def push(self, head: bytes, payload: bytes) -> bytes:
        """Answer when the next actor has answered."""
        await self.ensure_started()
        push, batch = unpack_push(head, payload)
        if self._fork is not None and not await self._fork.hears(push.link):
            raise UnavailableError(f"{push} comes from a lane that is lost")
        return pack_answer(await self._receiver.push(push, batch))

    async def serve(self, lanes: frozenset[int]) -> bool:
        """Serve these lanes alone; return whether something of another is here, which waits for it."""
        await self.ensure_started()
        return self._fork is not None and self._fork.serve(lanes)

    async def outcome(self, push: Push) -> Receipt:
        """Return the outcome of a batch that was taken."""
        await self.ensure_started()
        return await self._receiver.outcome(push)

    async def statistics(self) -> StageStatistics:
        """Return a snapshot of the counters."""
        await self.ensure_started()
        return self._stage.statistics()._replace(letters=self._dead_letters.statistics())

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the stage, whose steps show their events."""
        return {part: self._stage}

    async def dead_letters(self, event_id: str | None = None) -> list[DeadLetter]:
        """Return the dead letters that are kept here."""
        await self.ensure_started()
        return await self._dead_letters.stored(event_id)

    async def flush(self) -> None:
        """Let go of everything that is held."""
        await self.ensure_started()
        await self._stage.flush()

    def _way_out(self) -> Outgoing:
        """Return the link to what comes next: none in a replica, one, or, where lanes share the stage, one each."""
        if self._behind is None:
            return Reply()
        if not self._stage_plan.shared:
            return self._link(self._plan, self._behind)
        self._fork = Fork(f"{self._plan.name}/lane-", self._link_of, told=self._plan.per_node)
        return self._fork

    def _link_of(self, lane: int) -> Link:
        assert self._behind is not None
        return self._link(self._plan.lane(lane), self._behind.in_lane(lane))

    def _link(self, plan: Plan, target: Target) -> Link:
        connection = connect(plan, target, self._dead_letters)
        self._opened.push_async_callback(connection.close)
        # What comes in was joined by the intake already; passed on one by one, batches keep their identity, by which
        # the buffer knows those that come a second time after a restart of this actor.
        bury = partial(self._dead_letters.bury, "")
        return Link(f"{plan.name}/{self._stage_plan.name}", connection.peer, window=single(self._plan), bury=bury)


StageActor = ray.remote(**ACTOR)(StageShell)
