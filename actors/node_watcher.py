"""Follow the nodes of a cluster: one that joins has a lane soon, one that is lost may take its own with it.

The lane of a node that Ray drains is emptied before the node goes. Lanes that are spread over nodes as needed are seen
off in the same way; the scaler restores their number.

A lane whose buffer is in memory has nothing to come back for: it is forgotten with its node. One with a journal stays a
part, unhealthy, and goes on when a node of its address comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray.exceptions

from polku.actors.actor_factory import ActorFactory
from polku.actors.drain import kill
from polku.actors.handles import LaneHandles
from polku.actors.node_drain import leave_node
from polku.actors.nodes import LanePlace, Node, draining, living, spread, workers
from polku.actors.startup import open_doors, start, start_all
from polku.aio.tasks import TaskSet
from polku.errors import NotRunningError, PolkuError
from polku.gateway.addresses import Doors
from polku.log import RepeatedLog
from polku.plan import Plan

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_LOOK_SECONDS = 2.0
_STOP_SECONDS = 2.0  # for what cannot be interrupted: the drain must have its time
_PAUSE_SECONDS = 30.0  # until a node that could not be given a lane is tried again


class NodeWatcher:
    """Add and drop the lanes of one pipeline; `on_lane` is told of each that is added."""

    def __init__(
        self,
        plan: Plan,
        arrangement: ActorFactory,
        here: Node,
        supervisor: Any,
        doors: Doors,
        on_lane: Callable[[LaneHandles], None],
    ) -> None:
        self._plan = plan
        self._arrangement = arrangement
        self._here = here
        self._supervisor = supervisor
        self.doors = doors
        self._on_lane = on_lane
        self._joining: dict[str, tuple[LanePlace, asyncio.Task[None]]] = {}  # by the address of the node
        self._leaving: set[int] = set()  # the numbers of lanes whose nodes Ray drains
        self.lost: list[str] = []  # lanes that were lost with what their buffers held in memory
        self._tasks = TaskSet("lanes of nodes")
        self._tasks.keep_alive("watching the nodes", self._watch)

    async def stop(self) -> None:
        """Add and drop no more; a lane that is being started and has taken nothing in yet goes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tasks.close(), _STOP_SECONDS)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                nodes, alive = await asyncio.to_thread(workers), await asyncio.to_thread(living)
                going = await asyncio.to_thread(draining)
            except (NotRunningError, RuntimeError):  # the program ends without a stop
                return
            except Exception as error:  # whatever Ray raises where its own service does not answer
                _REPEATED.warning("nodes", "the nodes of the cluster cannot be listed: %s", error)
                continue
            self._see_off(going)
            # A list without this very node is no list of the cluster.
            if not self._plan.buffer.path and self._here.address in alive:
                self._drop_lost(alive)
            if not self._plan.spread:
                self._greet(nodes)

    def _greet(self, nodes: Sequence[Node]) -> None:
        """Begin to give nodes that have joined their lanes."""
        taken = [*self._arrangement.places, *(place for place, _ in self._joining.values())]
        for place in spread(nodes, self._here, taken):
            task = self._tasks.start("joining", self._join(place))
            self._joining[place.node.address] = place, task

    def _see_off(self, going: Mapping[str, float]) -> None:
        """Begin to empty the lanes of nodes that Ray drains; of those that are spread another takes the place at once.

        One that leaves already, as it is needed no more, has what it holds delivered by a part of its own.
        """
        for lane, place in self._arrangement.lanes:
            if lane.address in going and lane.number not in self._leaving and not lane.leaving:
                self._leaving.add(lane.number)
                if self._plan.spread:
                    lane = lane._replace(leaving=True)
                    self._arrangement.exchange(lane, place)
                if lane.address == self._here.address:
                    _LOG.warning("Ray drains node %s, on which the pipeline was started: it has to stop", lane.address)
                self._tasks.start("leaving", self._leave(lane, place, going[lane.address]))

    async def _leave(self, lane: LaneHandles, place: LanePlace, deadline: float) -> None:
        """Empty a lane, and count it among the parts no more."""
        plan = self._arrangement.layout.plan.lane(lane.number, place.number)
        try:
            departure = await leave_node(plan, lane, self._arrangement.parts(), deadline)
        except ray.exceptions.RayError as error:
            _LOG.error("%s was lost while it left node %s: %s", lane.door, lane.address, error)
            self._leaving.discard(lane.number)  # it is tried again where it comes back
            await asyncio.sleep(_LOOK_SECONDS)
            return
        if departure.is_lost:
            _LOG.error("%s", departure.text)
            self.lost.append(lane.door)
        else:
            _LOG.info("%s", departure.text)
        async with self._arrangement.changing:
            if not departure.is_lost:
                self._arrangement.count_gone(departure.emitters)
            now = next((one for one in self._arrangement.parts().lanes if one.number == lane.number), lane)
            self._arrangement.drop(now)
            kill(now.all().values())

    def _drop_lost(self, alive: frozenset[str]) -> None:
        for lane in self._arrangement.parts().lanes:
            if lane.address not in alive:
                _LOG.error("%s is lost with its node %s, and what its buffer held", lane.door, lane.address)
                self.lost.append(lane.door)
                self._arrangement.drop(lane)
                kill(lane.all().values())

    async def _join(self, place: LanePlace) -> None:
        address = place.node.address
        try:
            await self._add(place)
        except ray.exceptions.RayActorError as error:
            _REPEATED.error((address, "lost"), "the lane of node %s was lost while it was started: %s", address, error)
            await asyncio.sleep(_PAUSE_SECONDS)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            _REPEATED.error(
                (address, "join"), "node %s could not be given a lane: %s; it is tried again soon", address, cause
            )
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._joining.pop(address, None)

    async def _add(self, place: LanePlace) -> None:
        async with self._arrangement.changing:
            await self._add_lane(place)

    async def _add_lane(self, place: LanePlace) -> None:
        """Create and start a lane; nothing is left of one that cannot be started.

        It is a part before it takes anything in, so that a stop that comes then drains that. One that is lost meanwhile
        stays a part: the supervisor opens it when it is back.
        """
        creating = asyncio.ensure_future(asyncio.to_thread(self._arrangement.create_lane, place))
        try:
            lane = await asyncio.shield(creating)
        except asyncio.CancelledError:
            kill((await creating).all().values())
            raise
        try:
            await start_all(lane.behind())
        except BaseException:
            kill(lane.all().values())
            raise
        self._arrangement.add(lane, place)
        self._on_lane(lane)
        try:
            await open_doors(lane, place, self.doors)
        except (PolkuError, ray.exceptions.RayTaskError):
            self._arrangement.drop(lane)
            kill(lane.all().values())
            raise
        await start(lane.ingest.introduce, self._supervisor, self.doors, lane.scope)
        _LOG.info("%s is on node %s, which has joined", lane.door, place.node.address)
