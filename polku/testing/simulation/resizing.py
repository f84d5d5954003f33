"""Another number of replicas for a stage of a simulated cluster, step by step as `polku.actors.resizing` does it.

Those that come are started first. Then each part that hands batches to replicas is told, over the network, until those
that go have none; a part that dies meanwhile begins with what it would have been told.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from polku.errors import UnavailableError
from polku.testing.simulation.shells import SimulatedStage, workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polku.plan import Plan, StagePlan
    from polku.testing.simulation.cluster import Cluster

_START_SECONDS = 20.0
_END_SECONDS = 60.0
_LOOK_SECONDS = 0.02


class Resizing:
    """Change the numbers of replicas of a cluster, one at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._names: dict[str, tuple[str, ...]] = {}  # of the parts of stages that were changed
        self._numbers = count(1)
        self._alone = asyncio.Lock()

    def parts_of(self, stage: StagePlan) -> Sequence[str]:
        """Return the names of the parts that share the work of a stage now."""
        return self._names.get(stage.name) or workers(stage)

    async def resize(self, position: int, replicas: int) -> bool:
        """Give the stage at a position another number of replicas; return whether that was done."""
        async with self._alone:
            stage = self._cluster.plan.stages[position]
            before = tuple(self.parts_of(stage))
            number = next(self._numbers)
            more = [f"{stage.name}/replica-{n}@{number}" for n in range(len(before) + 1, replicas + 1)]
            after = (*before[:replicas], *more)
            came = [f"lane-{lane}/{name}" for lane in self._cluster.lanes for name in more]
            if not await self._start(stage, came):
                self._cluster.remove(came)
                return False
            if await self._tell(position, after):
                self._cluster.remove([f"lane-{n}/{name}" for n in self._cluster.lanes for name in before[replicas:]])
                return True
            if await self._tell(position, before):  # as it was; otherwise those that came stay
                self._cluster.remove(came)
            return False

    async def _start(self, stage: StagePlan, names: Sequence[str]) -> bool:
        """Create and start the parts that come; return whether all have."""
        for name in names:
            lane = int(name.partition("/")[0].removeprefix("lane-"))
            plan: Plan = self._cluster.plan.lane(lane)
            part = name.partition("/")[2]
            self._cluster.add(name, partial(SimulatedStage.open, self._cluster, plan, stage, part, lane))
        for name in names:
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await self._cluster.call(name, _statistics)
            except (TimeoutError, UnavailableError):
                return False
        return True

    async def _tell(self, position: int, names: tuple[str, ...]) -> bool:
        """Have batches go to these replicas alone; return whether no other has any, in time."""
        stage = self._cluster.plan.stages[position]
        self._names[stage.name], number = names, next(self._numbers)
        deadline = self._cluster.world.now + _END_SECONDS
        while self._cluster.world.now < deadline:
            if not await self._left(position, number, stage, names):
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    async def _left(self, position: int, number: int, stage: StagePlan, names: tuple[str, ...]) -> int:
        """Tell all that hand batches to replicas; return how many those that go still have, or one for who is away."""
        left = 0
        for holder in self._holders(position):
            try:
                left += await self._cluster.call(holder, lambda shell: shell.resize(number, stage.name, names))
            except UnavailableError:
                left += 1
        return left

    def _holders(self, position: int) -> list[str]:
        """Return the names of the parts that hand batches to the replicas of a stage."""
        plan = self._cluster.plan
        for stage in reversed(plan.stages[:position]):
            if stage.replicated:
                continue
            if plan.chained and not stage.apart:
                break
            places = [""] if stage.shared else [f"lane-{lane}/" for lane in self._cluster.lanes]
            return [place + name for place in places for name in workers(stage)]
        return [self._cluster.ingest_part(lane).name for lane in self._cluster.lanes]


async def _statistics(shell: SimulatedStage) -> object:
    return shell.stage.statistics()
