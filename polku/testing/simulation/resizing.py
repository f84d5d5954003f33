"""Another number of replicas or partitions for a stage of a simulated cluster, step by step as `polku.actors` does it.

Those that come are started first. Then each part that hands batches to replicas is told, over the network, until those
that go have none; a part that dies meanwhile begins with what it would have been told. Where it is about partitions the
ingests send nothing until all has its answer, and the state of each key moves first.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from polku.errors import UnavailableError
from polku.testing.simulation.shells import SimulatedStage, workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from polku.plan import StagePlan
    from polku.testing.simulation.cluster import Cluster

_START_SECONDS = 20.0
_END_SECONDS = 60.0
_REST_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_FLUSH_SECONDS = 0.05


class Resizing:
    """Change the numbers of replicas of a cluster, one at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._names: dict[str, tuple[str, ...]] = {}  # of the parts of stages that were changed
        self._numbers = count(1)
        self.alone = asyncio.Lock()  # held by who changes the parts
        self.version = 0  # of the partitions, higher with each change of them

    def parts_of(self, stage: StagePlan) -> Sequence[str]:
        """Return the names of the parts that share the work of a stage now."""
        return self._names.get(stage.name) or workers(stage)

    async def resize(self, position: int, replicas: int) -> bool:
        """Give the stage at a position another number of replicas; return whether that was done."""
        async with self.alone:
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

    async def divide(self, position: int, partitions: int) -> bool:
        """Give the stage at a position another number of partitions; return whether that was done."""
        async with self.alone:
            stage = self._cluster.plan.stages[position]
            before, number = tuple(self.parts_of(stage)), next(self._numbers)
            after = tuple(f"{stage.name}/partition-{n}@{number}" for n in range(1, partitions + 1))
            places = [""] if stage.shared else [f"lane-{lane}/" for lane in self._cluster.lanes]
            came = [place + name for place in places for name in after]
            is_moved = await self._start(stage, came) and await self._move(stage, number, places, before, after)
            if is_moved:
                self._names[stage.name], self.version = after, number
                is_moved = await self._lead(position)
            else:
                self._cluster.remove(came)
            while await self._all_ingests(lambda shell: shell.resume(number)):  # noqa: ASYNC110 - those that are silent, later
                await asyncio.sleep(_FLUSH_SECONDS)
            if is_moved:
                self._cluster.remove(place + name for place in places for name in before)
            return is_moved

    async def _move(
        self, stage: StagePlan, number: int, places: Sequence[str], before: Sequence[str], after: Sequence[str]
    ) -> bool:
        """Have all come to rest, and move the state of each key; return whether that was done in time."""
        if not await self._rest(number):
            return False
        if not hasattr(stage.middleware[0].component, "split_state"):
            return True
        try:
            for place in places:
                waits = [self._cluster.call(place + old, lambda shell: shell.shares(len(after))) for old in before]
                shares = await asyncio.gather(*waits)
                for new, own in zip(after, zip(*shares, strict=True), strict=True):
                    await self._cluster.call(place + new, partial(_restore, own))
        except UnavailableError:
            return False
        return True

    async def _rest(self, number: int) -> bool:
        deadline = self._cluster.world.now + _REST_SECONDS
        while self._cluster.world.now < deadline:
            if await self._all_ingests(lambda shell: shell.rest(number)) == 0:
                return True
            for name, part in list(self._cluster.parts.items()):
                if part.is_up and ("stage" in name or name.endswith("/buffer")):
                    with contextlib.suppress(UnavailableError):
                        await self._cluster.call(name, lambda shell: shell.flush(everything=True))
            await asyncio.sleep(_FLUSH_SECONDS)
        return False

    async def _all_ingests(self, ask: Callable[[Any], Awaitable[int | None]]) -> int:
        """Ask the ingests of all lanes; return the sum of what they answer, with one for who is away."""
        total = 0
        for lane in self._cluster.lanes:
            try:
                total += await self._cluster.call(self._cluster.ingest_part(lane).name, ask) or 0
            except UnavailableError:
                total += 1
        return total

    async def _lead(self, position: int) -> bool:
        """Have batches go to the partitions that there are now; return whether all do, in time."""
        deadline, version = self._cluster.world.now + _END_SECONDS, self.version
        for holder in self._holders(position):
            while True:
                try:
                    if await self._cluster.call(holder, lambda shell: shell.lead(version)):
                        break
                    await self._rest(version)  # a process that was started again meanwhile sends
                except UnavailableError:
                    pass
                if self._cluster.world.now > deadline:
                    return False
                await asyncio.sleep(_LOOK_SECONDS)
        return True

    async def _start(self, stage: StagePlan, names: Sequence[str]) -> bool:
        """Create and start the parts that come; return whether all have."""
        for name in names:
            lane, part, plan = 0, name, self._cluster.plan
            if not stage.shared:
                lane, part = int(name.partition("/")[0].removeprefix("lane-")), name.partition("/")[2]
                plan = plan.lane(lane)
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
            return [place + name for place in places for name in self.parts_of(stage)]
        return [self._cluster.ingest_part(lane).name for lane in self._cluster.lanes]


async def _restore(shares: Sequence[bytes], shell: SimulatedStage) -> None:
    await shell.restore_shares(shares)


async def _statistics(shell: SimulatedStage) -> object:
    return shell.stage.statistics()
