"""The actor around one stage of middleware."""

from __future__ import annotations

from functools import partial
from typing import Any

import ray

from polku.actors.options import ACTOR
from polku.actors.peer import RayPeer
from polku.actors.shell import Shell, unpack
from polku.assembly import build_dead_letters, build_stage
from polku.batch import Batch, Header
from polku.dead_letters import DeadLetter, DeadLetters
from polku.inlet import Inlet
from polku.link import Link, Push, Window
from polku.plan import Plan, StagePlan
from polku.receipt import Receipt, Taken
from polku.stage import Stage, StageStatistics


class StageShell(Shell):
    """Receive batches, run the middleware on them, push on what is left."""

    def __init__(self, packed: bytes) -> None:
        super().__init__()
        self._plan: Plan
        self._stage_plan: StagePlan
        self._receiver: Any
        self._plan, self._stage_plan, self._receiver = unpack(packed)

    async def open(self) -> None:
        """Build the middleware and start it."""
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        # What comes in was joined by the intake already; passed on one by one, batches keep their identity, by which
        # the buffer knows those that come a second time after a restart of this actor.
        window = Window(join_events=0)
        link = Link(
            f"{self._plan.name}/{self._stage_plan.name}",
            RayPeer(self._receiver, "next actor"),
            window=window,
            bury=partial(self._dead_letters.bury, ""),
        )
        self._stage: Stage = build_stage(self._plan, self._stage_plan, link, self._dead_letters)
        self._inlet = Inlet(self._stage)
        await self._stage.start()

    async def push(self, push: Push, header: Header, payload: bytes) -> Receipt | Taken:
        """Answer when the next actor has answered."""
        await self.ensure_started()
        return await self._inlet.push(push, Batch.from_wire(header, payload))

    async def settle(self, push: Push) -> Receipt:
        """Return the outcome of a batch that was taken."""
        await self.ensure_started()
        return await self._inlet.settle(push)

    async def statistics(self) -> StageStatistics:
        """Return a snapshot of the counters."""
        await self.ensure_started()
        return self._stage.statistics()

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters that are kept here."""
        await self.ensure_started()
        return await self._dead_letters.stored()

    async def flush(self) -> None:
        """Let go of everything that is held."""
        await self.ensure_started()
        await self._stage.flush()

    async def close(self) -> None:
        """Close the middleware."""
        if self._started:
            await self._stage.close()
            await self._dead_letters.close()


StageActor = ray.remote(**ACTOR)(StageShell)
