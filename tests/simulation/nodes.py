"""Nodes that come, are drained and are lost in a simulated cluster: `polku.actors.node_watcher` follows them.

Each has a lane. What runs on a node dies with it; Ray starts a lane's parts again where a node of that address is back,
and stages that lanes share elsewhere. The first node is the program's own, and stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import ray.exceptions

from polku.actors import node_watcher
from polku.actors.actor_factory import Layout
from polku.actors.handles import LaneHandles
from polku.actors.node_watcher import NodeWatcher
from polku.actors.nodes import LanePlace, Node
from polku.errors import UnavailableError
from polku.gateway.addresses import Doors
from polku.plan import Plan
from polku.runtime.report import StopReport
from polku.testing.simulation.clients import SendChannel
from polku.testing.simulation.part import SimulatedPart
from polku.testing.simulation.world import World
from tests.simulation.lanes import GrowingCluster, Handle
from tests.simulation.roaming import RoamingDoor

_AWAY_SECONDS = 0.2  # until who calls a part of a node that is lost learns that it is away
_MARGIN_SECONDS = 7.0  # before a node goes, in which its lane is to have ended: 5 of them are the product's
_LOOKS = 50
_BUFFERS = ("/buffer", "/lane")


def _node(number: int) -> Node:
    """Return a node; all are on one machine, so that the lane of each has a journal of its own."""
    return Node(f"127.0.0.{number}", "host", f"node-{number}")


class SpreadCluster(GrowingCluster):
    """A cluster that has a lane on each node."""

    def __init__(self, world: World, plan: Plan, nodes: int) -> None:
        super().__init__(world, plan)
        self.lanes = list(range(1, nodes + 1))
        self.open = set(self.lanes)
        self._nodes = {node.address: node for node in map(_node, self.lanes)}  # those that live
        self._going: dict[str, float] = {}  # when Ray takes them away, by the wall clock
        self._due: dict[str, float] = {}  # the same, in virtual seconds
        self._of: dict[int, str] = {number: _node(number).address for number in self.lanes}  # by the lane
        self._away: defaultdict[str, list[SimulatedPart]] = defaultdict(list)  # what begins again when a node is back

    async def start(self) -> None:
        """Create every part, and follow the nodes from then on."""
        world = self.world
        world.patch(node_watcher, "workers", self._workers)
        world.patch(node_watcher, "living", lambda: frozenset(self._nodes))
        world.patch(node_watcher, "draining", lambda: dict(self._going))
        world.patch(node_watcher, "_LOOK_SECONDS", world.random.choice([0.2, 2.0]))
        await super().start()
        create = self._factory.create_lane

        def create_lane(place: LanePlace, layout: Layout | None = None) -> LaneHandles:
            lane = create(place, layout)
            self._of[lane.number] = lane.address
            world.ledger.count("lanes of nodes that came")
            return lane

        world.patch(self._factory, "create_lane", create_lane)
        await world.loop.spawn(self._program, self._follow())

    async def _follow(self) -> None:
        doors = Doors(door=None)
        self._watcher = NodeWatcher(self.plan, self._factory, _node(1), None, doors, lambda lane: None)

    async def stop(self, timeout: float) -> StopReport:
        """Follow the nodes no more, drain what there is, and close every part."""
        await self.world.loop.spawn(self._program, self._watcher.stop())
        return await super().stop(timeout)

    def place_of(self, number: int) -> LanePlace:
        """Return where a lane is that is there from the beginning."""
        return LanePlace(_node(number), number)

    def ways_in(self) -> list[SendChannel]:
        """Return doors to the ports of any lane."""
        self._clients = [RoamingDoor(self, number, inside=False) for number in range(1, 6)]
        return list(self._clients)

    async def settled(self, limit: float) -> list[str]:
        """Wait until each node has a lane, and no lane is without its node."""
        while True:
            nodes = sorted(self._nodes)
            lanes = [lane.address for lane in self._factory.parts().lanes if lane.number in self.open]
            if sorted(lanes) == nodes:
                return []
            if self.world.now > limit:
                return [f"nodes: {nodes} are there, and lanes are on {lanes}"]
            await asyncio.sleep(0.5)

    async def change(self, fault: Mapping[str, Any]) -> None:
        """Have a node come, or take it away: at once, or after it was drained for some seconds; it is back later."""
        node, world = _node(fault["node"]), self.world
        if (fault["deed"] == "come") == (node.address in self._nodes) or node.address in self._going:
            return
        if fault["deed"] == "come":
            self._come(node)
            return
        if fault["deed"] == "drain":
            world.trace(f"nodes: {node.address} is drained")
            self._going[node.address] = world.time_ns() / 1e9 + fault["deadline"]
            self._due[node.address] = world.now + fault["deadline"]
            await asyncio.sleep(fault["deadline"])
        self._lose(node)
        if fault["away"] is not None:
            await asyncio.sleep(fault["away"])
            self._come(node)

    def _come(self, node: Node) -> None:
        self.world.trace(f"nodes: {node.address} comes")
        self._nodes[node.address] = node
        for part in self._away.pop(node.address, ()):
            part.begin()

    def _lose(self, node: Node) -> None:
        self.world.trace(f"nodes: {node.address} is lost")
        self.world.ledger.count("nodes lost")
        del self._nodes[node.address]
        self._going.pop(node.address, None)
        for part in list(self.parts.values()):
            address = self._address_of(part.name)
            if address == node.address or (not address and self.world.random.random() < 0.5):
                self.world.loop.kill(part.process, by_chance=True)

    def _address_of(self, name: str) -> str:
        """Return the address of a part's node; empty for one that lanes share, which is on any."""
        lane = name.partition("/")[0]
        return self._of[int(lane.removeprefix("lane-"))] if lane.startswith("lane-") else ""

    def _is_away(self, name: str) -> bool:
        return (self._address_of(name) or _node(1).address) not in self._nodes

    def _workers(self) -> list[Node]:
        return [node for address, node in self._nodes.items() if address not in self._going]

    def revive(self, part: SimulatedPart) -> None:
        """Have a part that died begin again, a moment later, or once its node is back."""
        self.world.loop.call_later(self.downtime(), self._begin, part, context=self.process.context.copy())

    def _begin(self, part: SimulatedPart) -> None:
        if self._is_away(part.name):
            self._away[self._address_of(part.name)].append(part)
        else:
            part.begin()

    async def wait_back(self, part: SimulatedPart) -> None:
        """Return when a part that died lives again, or soon where its node is lost."""
        for _ in range(_LOOKS):
            if not part.process.dead or self._is_away(part.name) or part.name not in self.parts:
                break
            await asyncio.sleep(_AWAY_SECONDS)

    async def call(self, name: str, work: Callable[[Any], Any], *, once: bool = False) -> Any:
        """Call a part over the network; raises `UnavailableError` where its node is lost, too."""
        if name in self.parts and self._is_away(name):
            await asyncio.sleep(_AWAY_SECONDS)
            raise UnavailableError(f"{name} is on a node that is lost", died=True)
        return await super().call(name, work, once=once)

    async def _tell(self) -> None:
        """Tell the stages that lanes share which there are; one that waits for one that is lost is started again."""
        while True:
            await asyncio.sleep(1.0)
            self._learn()
            lost = {lane.number for lane in self._known if lane.address not in self._nodes}
            lanes = frozenset(lane.number for lane in self._known) - lost
            for name, handle in self._factory.parts().shared.items():
                with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
                    async with asyncio.timeout(5.0):
                        if await handle.serve.remote(lanes, frozenset()):
                            self.world.ledger.count("shared stages started again")
                            self.kill(name)

    def _check_time(self, part: SimulatedPart) -> None:
        """See that a lane that is lost with what its buffer held used the time that it had, by clocks that go well."""
        left = self._due.get(self._address_of(part.name), 0.0) - self.world.now
        lag = sum(outlet.lag for outlet in part.running.buffer.statistics().outlets.values())
        if lag and left > _MARGIN_SECONDS and not self.world.ledger.counts.get("fault clock"):
            self.world.ledger.fault(
                f"nodes: {part.name} is given up {left:.0f} s before its node goes, with {lag} events"
            )

    def _kill(self, handle: Handle, *, no_restart: bool = True) -> None:
        """End a part; what a buffer in memory held in vain is known to be lost."""
        part = self.parts.get(handle.name)
        if part is not None and part.is_up and part.name.endswith(_BUFFERS):
            lane = part.name.rpartition("/")[0]
            if any(door.startswith(lane) for door in self._watcher.lost):
                self._check_time(part)
                self.on_death(part)
            elif not self.plan.buffer.path:  # what it held of best effort, which is no loss, is gone
                self.world.ledger.excused_optional.update(entry.token for entry in self.world.ledger.inputs.values())
        super()._kill(handle)
