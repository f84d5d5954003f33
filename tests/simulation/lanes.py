"""Lanes that come and go in a simulated cluster: `polku.actors.changes` and `polku.actors.lanes` decide, as on Ray.

What they call are the parts of the cluster, over its network; `ray.kill` ends a part of it. Clients of a port are asked
to connect elsewhere when their lane goes; those inside of the application know the lanes of the time when they began.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import ray
import ray.exceptions

from polku.actors import kept, lanes
from polku.actors.actor_factory import ActorFactory, Layout, name_of
from polku.actors.changes import Changes
from polku.actors.handles import ActorHandles, LaneHandles
from polku.actors.lane_change import StuckError
from polku.actors.nodes import LanePlace, Node
from polku.errors import ChangeError, UnavailableError
from polku.gateway.addresses import Addresses
from polku.plan import Plan
from polku.runtime.report import StopReport, add_up
from polku.testing.simulation.clients import SendChannel
from polku.testing.simulation.cluster import Cluster
from polku.testing.simulation.loop import Process
from polku.testing.simulation.shells import SimulatedBuffer, SimulatedEmitter, SimulatedIngest, SimulatedLane
from polku.testing.simulation.world import World
from tests.simulation.roaming import RoamingDoor

_TELL_SECONDS = 1.0  # between two looks of the supervisor
_KNOW_SECONDS = 2.0  # until a supervisor that has not heard of other lanes is told again
_NODE = Node("127.0.0.1", "host")


class GrowingCluster(Cluster):
    """A cluster whose lanes come and go."""

    def __init__(self, world: World, plan: Plan) -> None:
        super().__init__(world, plan)
        self.open = set(self.lanes)  # whose ports are
        self._program = Process("program")
        self._one_by_one = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None
        self._clients: list[RoamingDoor] = []

    async def start(self) -> None:
        """Create every part, and start them from the back to the front."""
        self.world.patch(ray, "kill", self._kill)
        self.world.patch(kept, "internal_kv", _Store(self))
        self.world.patch(lanes, "_EMPTY_SECONDS", self.world.random.choice([0.2, 2.0]))  # or cases take long
        await super().start()
        self._factory = _Factory(self)
        self._changes = Changes(self.plan, self._on_parts)
        self._changes.begin(self._factory, self._open_lane)
        self._learn()
        self._telling = self.world.loop.spawn(self.process, self._tell())

    async def stop(self, timeout: float) -> StopReport:
        """Change nothing more, drain it, and close every part."""
        await self.world.loop.spawn(self._program, self._end_changes())
        report = await super().stop(timeout)
        gone = self._changes.gone
        return report._replace(
            emitters={n: add_up([each, gone[n]]) if n in gone else each for n, each in report.emitters.items()}
        )

    async def _end_changes(self) -> None:
        await self._changes.stop()
        await self._changes.close()
        if self._telling is not None:
            self._telling.cancel()

    def place_of(self, number: int) -> LanePlace:
        """Return where a lane is that is there from the beginning."""
        return LanePlace(_NODE, number)

    @property
    def taking(self) -> list[int]:
        """The numbers of the lanes that take what is new."""
        return [lane.number for lane in self._factory.parts().taking]

    def ways_in(self) -> list[SendChannel]:
        """Return doors to any lane: some are of clients of the ports, others of senders inside of the application."""
        self._clients = [RoamingDoor(self, number, inside=number % 2 == 0) for number in range(1, 6)]
        return list(self._clients)

    def staying(self, lane: int) -> dict[str, int]:
        """Return how many clients a lane has at its port."""
        return {"grpc_addr": sum(client.lane == lane for client in self._clients)}

    def shed(self, lane: int, counts: Mapping[str, int], seconds: float) -> None:
        """Ask some of the clients of a lane to connect again."""
        self.world.ledger.count("clients asked to connect again", counts["grpc_addr"])
        for client in [client for client in self._clients if client.lane == lane][: counts["grpc_addr"]]:
            client.lane = 0

    async def scale(self, number: int) -> None:
        """Have this number of lanes; where that is not done, nothing was changed."""
        async with self._one_by_one:
            await self.world.loop.spawn(self._program, self._scale(number))

    async def _scale(self, number: int) -> None:
        ledger, before = self.world.ledger, self.taking
        try:
            await self._changes.update(self._changes.plan.with_lanes(number), 5.0)
        except StuckError as error:
            ledger.fault(f"lanes: stuck: {error}")
        except ChangeError as error:
            self.world.trace(f"lanes: {error}")
            ledger.count("changes of lanes refused")
            if sorted(self.taking) != sorted(before):
                ledger.fault(f"lanes: {before} took events, and {self.taking} do after a change that failed: {error}")
        else:
            self.world.trace(f"lanes: {self.taking}")
            ledger.count("changes of lanes")
            if len(self.taking) != number:
                ledger.fault(f"lanes: there are to be {number}, and {self.taking} take events")

    async def settled(self, limit: float) -> list[str]:
        """Wait until those that leave are gone; return which are not."""
        while leaving := [lane.door for lane in self._factory.parts().lanes if lane.leaving]:
            if self.world.now > limit:
                return [f"lanes: {', '.join(leaving)} has nothing to deliver any more, and does not end"]
            await asyncio.sleep(0.5)
        return []

    async def _on_parts(self) -> None:
        """Tell the supervisor which lanes there are; one that does not hear of it is told later."""
        if self.world.random.random() < self.network.lost:
            self.world.loop.call_later(_KNOW_SECONDS, self._learn)
            await asyncio.sleep(_KNOW_SECONDS)
        else:
            await asyncio.sleep(0.002 * self.world.random.random())
            self._learn()

    def _learn(self) -> None:
        self._known = self._factory.parts().lanes

    async def _tell(self) -> None:
        """Tell the stages that lanes share which there are, as the supervisor does."""
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            for name, handle in self._factory.parts().shared.items():
                known = frozenset(lane.number for lane in self._known)
                leaving = frozenset(lane.number for lane in self._known if lane.leaving)
                with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
                    async with asyncio.timeout(5.0):
                        if await handle.serve.remote(known, leaving):
                            self.world.ledger.fault(f"lanes: {name} has something for a lane that is none of {known}")

    async def _open_lane(self, lane: LaneHandles, place: LanePlace) -> None:
        while True:
            try:
                await lane.ingest.begin.remote()
                break
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(0.2)
        self.open.add(lane.number)

    def _kill(self, handle: Handle, *, no_restart: bool = True) -> None:
        self.remove([handle.name])


class _Factory(ActorFactory):
    """Create parts of a cluster."""

    def __init__(self, cluster: GrowingCluster) -> None:
        super().__init__(cluster.plan)
        self._cluster = cluster
        self.changing = cluster.resizing.alone
        for number in cluster.lanes:
            assert next(self._numbers) == number
            place = cluster.place_of(number)
            self._lanes[number] = self._handles(number, place), place

    @property
    def lanes(self) -> tuple[tuple[LaneHandles, LanePlace], ...]:
        """The lanes, with the replicas and partitions that they have now."""
        return tuple((lane._replace(stages=self._stages(lane)), place) for lane, place in self._lanes.values())

    def parts(self) -> ActorHandles:
        """Return the handles of all parts."""
        stages = [stage for stage in self._cluster.plan.stages if stage.shared]
        names = [name for stage in stages for name in self._cluster.resizing.parts_of(stage)]
        return ActorHandles(
            tuple(lane for lane, _ in self.lanes), {name: Handle(self._cluster, name) for name in names}
        )

    def create_lane(self, place: LanePlace, layout: Layout | None = None) -> LaneHandles:
        """Create the parts of one lane more."""
        number = next(self._numbers)
        self._cluster.create_lane(number, place.number)
        return self._handles(number, place)

    def add(self, lane: LaneHandles, place: LanePlace) -> None:
        """Count a lane among the parts."""
        super().add(lane, place)
        self._cluster.lanes.append(lane.number)

    def drop(self, lane: LaneHandles) -> None:
        """Count a lane among the parts no more."""
        super().drop(lane)
        self._cluster.lanes.remove(lane.number)

    def _handles(self, number: int, place: LanePlace) -> LaneHandles:
        plan, start = self._cluster.plan, f"lane-{number}/"
        name, rest = name_of(plan, number), (place.node.address, place.is_first, "")
        if plan.chained:
            whole = Handle(self._cluster, f"{start}lane")
            return LaneHandles(name, number, whole, {}, whole, {outlet.name: whole for outlet in plan.outlets}, *rest)
        emitters = {o.name: Handle(self._cluster, f"{start}emitter:{o.name}") for o in plan.outlets}
        ingest, buffer = (Handle(self._cluster, start + part) for part in ("ingest", "buffer"))
        return LaneHandles(name, number, ingest, {}, buffer, emitters, *rest)

    def _stages(self, lane: LaneHandles) -> dict[str, Any]:
        plan, start = self._cluster.plan, f"lane-{lane.number}/"
        own = [stage for stage in plan.stages if not stage.shared and (stage.apart or not plan.chained)]
        names = [name for stage in own for name in self._cluster.resizing.parts_of(stage)]
        return {name: Handle(self._cluster, start + name) for name in names if start + name in self._cluster.parts}


class Handle:
    """A part as others call it."""

    def __init__(self, cluster: GrowingCluster, name: str) -> None:
        self.name = self._actor_id = name
        self._cluster = cluster

    def __getattr__(self, method: str) -> _Method:
        if method.startswith("_"):
            raise AttributeError(method)
        return _Method(self._cluster, self.name, method)


class _Method(NamedTuple):
    cluster: GrowingCluster
    name: str
    method: str

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        """Call it, as an actor is called."""
        return asyncio.ensure_future(self._call(arguments))

    async def _call(self, arguments: tuple[Any, ...]) -> Any:
        if self.name not in self.cluster.parts:
            raise ray.exceptions.ActorDiedError
        if self.method == "own_name":
            return self.name
        if self.method == "vitals":
            return await self._ask(self._vitals)
        if self.method in ("staying", "shed", "introduce", "close_doors"):
            await self._ask(_nothing)
            number = int(self.name.partition("/")[0].removeprefix("lane-"))
            if self.method == "introduce":
                self.cluster.open.add(number)
                return Addresses()
            if self.method == "close_doors":
                return self.cluster.open.discard(number)
            return self.cluster.staying(number) if self.method == "staying" else self.cluster.shed(number, *arguments)
        work = _CALLS[self.method]
        return await self._ask(lambda shell: work(shell, *arguments))

    async def _ask(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await self.cluster.call(self.name, work, once=True)
        except UnavailableError as error:
            raise ray.exceptions.ActorUnavailableError(str(error), bytes(16)) from None
        except Exception as error:
            raise ray.exceptions.RayTaskError(self.method, str(error), error).as_instanceof_cause() from None

    async def _vitals(self, shell: object) -> _Vitals:
        return _Vitals(self.cluster.parts[self.name].life)


class _Vitals(NamedTuple):
    epoch: int


class _Store:
    """Ray's own store of keys and values: it has what ingests were told about their end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def _internal_kv_del(self, key: str, **_: object) -> None:
        name = key.partition("/")[2]  # without that of the run
        self._cluster.farewells.get(name.removesuffix("/farewell"), set()).clear()


async def _nothing(shell: object) -> None:
    """Do nothing: to be called starts a part."""


async def _statistics(shell: Any) -> object:
    match shell:
        case SimulatedLane():
            return shell.lane.statistics()
        case SimulatedIngest():
            return shell.intake.statistics()
        case SimulatedBuffer():
            return shell.buffer.statistics()
        case SimulatedEmitter():
            return shell.delivery.statistics()
    return shell.stage.statistics()


async def _flush(shell: Any) -> None:
    await (shell.lane.flush() if isinstance(shell, SimulatedLane) else shell.flush(everything=True))


async def _come_back(shell: Any) -> None:
    shell.farewell.come_back()


async def _serve(shell: Any, lanes: frozenset[int], leaving: frozenset[int]) -> bool:
    return shell.fork is not None and shell.fork.serve(lanes, leaving)


async def _halt(shell: SimulatedBuffer) -> None:
    shell.buffer.halt()


async def _release(shell: Any) -> None:
    if isinstance(shell, SimulatedLane):
        await shell.lane.release()
    else:
        shell.delivery.release()


async def _open_for(shell: Any, lane: int) -> int:
    return 0 if shell.fork is None else shell.fork.open(lane)


_CALLS: dict[str, Callable[..., Awaitable[Any]]] = {
    "begin": _nothing,
    "statistics": _statistics,
    "flush": _flush,
    "leave_doors": lambda shell: shell.farewell.leave(),
    "come_back": _come_back,
    "drain_ingest": lambda shell: shell.drain(),
    "drain_buffer": lambda shell: shell.buffer.drain(),
    "halt": _halt,
    "settled": lambda shell: shell.buffer.settled(),
    "release": _release,
    "claim": lambda shell, doors: _nothing(shell),
    "serve": _serve,
    "open_for": _open_for,
    "close": lambda shell: shell.close(),
}
