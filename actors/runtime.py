"""Run a plan on Ray: an actor for every part, linked from the ingest to the emitters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.exceptions
from msgspec import structs

from polku.actors.actor_factory import ActorFactory
from polku.actors.asking import ask
from polku.actors.attachment import SHUT_DOWN, attach, first_line
from polku.actors.changes import Changes
from polku.actors.console_output import ConsoleOutput
from polku.actors.drain import call, close, drain, kill, look, outcome, release, vanished
from polku.actors.finding import find, tap
from polku.actors.handles import ActorHandles, LaneHandles
from polku.actors.letters import change_letters, stored_letters
from polku.actors.node_drain import seconds_left
from polku.actors.node_watcher import NodeWatcher
from polku.actors.nodes import LanePlace, Node, check_journals, draining, places, this_node
from polku.actors.ports import abandon_ports, check_shared, check_wildcards, reserve_ports
from polku.actors.scaler import Scaler
from polku.actors.send_channel import RayChannel
from polku.actors.shell import pack
from polku.actors.startup import introduce_all, open_doors, start, start_all
from polku.actors.supervisor import Known, SupervisorActor
from polku.actors.surroundings import surroundings
from polku.aio.tasks import TaskSet
from polku.buffer.copies import Found
from polku.buffer.strategy import Kind
from polku.change.numbers import continued
from polku.dead_letters import DeadLetter, LetterVerb
from polku.dead_letters.store import Selection
from polku.errors import ChangeError, NotRunningError, PolkuError, UnavailableError
from polku.gateway.addresses import Addresses, Doors
from polku.health import Health, away
from polku.log_format import Origin, name_process
from polku.monitoring.collector import facts_of
from polku.monitoring.statistics import PipelineStatistics
from polku.plan import Plan
from polku.runtime import STOPPED
from polku.runtime.changing import Changed
from polku.runtime.lane import LaneStatistics
from polku.runtime.ports import renewed
from polku.runtime.reloads import Reloads
from polku.runtime.report import StopReport, add_up, stop_report
from polku.runtime.standstill import drain_within
from polku.sender import SendChannel
from polku.tap.request import TapReply, TapRequest

_SUPERVISOR_INTERVAL = 2.0  # seconds between two calls of the supervisor
_CLOSE_SECONDS = 5.0
_GONE = "Ray is gone, and the pipeline with it"
_LOG = logging.getLogger(__name__)


class RayRuntime:
    """Place and connect the actors; attach to a running Ray, or start one and stop it again."""

    def __init__(self, plan: Plan, doors: Doors) -> None:
        self._plan = plan
        self._doors = self._open_doors = doors
        self._addresses = Addresses()
        self._arrangement: ActorFactory | None = None
        self._changes = Changes(plan, self._adopt)
        self._generation = 0
        self._reloads = Reloads()
        self._scaler = Scaler(self._changes, self.statistics, lambda: self.note_reloads(self._reloads))
        self._supervisor: Any = None
        # Ray installs its signal handlers from the main thread only, so it is started there where that is possible.
        main = threading.current_thread() is threading.main_thread()
        self._attachment = attach() if main else None
        self._lost = ""
        self._has_ended = False
        self._here: Node | None = None
        self._leaves_at: float | None = None  # when Ray takes this node away
        self._tasks = TaskSet("pipeline")
        self._following: NodeWatcher | None = None
        self._started = 0.0
        self._console = ConsoleOutput(self._tasks)

    @property
    def addresses(self) -> Addresses:
        """Where the gateway is open, if it is."""
        return self._addresses

    @property
    def parts(self) -> ActorHandles:
        """The handles of the actors."""
        if self._arrangement is None:
            raise NotRunningError("the pipeline has not started")
        return self._arrangement.parts()

    @property
    def supervisor(self) -> Any:
        """The handle of the actor that supervises the others."""
        return self._supervisor

    @property
    def notice(self) -> str:
        """Which Ray the pipeline runs on."""
        return self._attachment.text if self._attachment is not None else ""

    @property
    def lost(self) -> str:
        """Why the pipeline is gone and does not come back; empty while it is there."""
        return self._lost

    @property
    def leaves_within(self) -> float | None:
        """How many seconds there are for a drain, as Ray drains the node of this program; None while it stays."""
        return None if self._leaves_at is None else seconds_left(self._leaves_at, time.time(), os.environ)

    async def start(self) -> None:
        """Create the actors from the back to the front and wait until each has started."""
        if self._attachment is None:
            self._attachment = await asyncio.to_thread(attach)
        name_process(Origin(self._plan.name, node=await asyncio.to_thread(ray.util.get_node_ip_address)))
        _LOG.debug("%s", self._attachment.text)
        self._attachment.check()
        try:
            await self._create()
        except ray.exceptions.RayTaskError as error:
            await self._kill()
            if isinstance(error.cause, PolkuError):
                raise error.cause from None
            raise
        except BaseException:
            await self._kill()
            raise

    async def update(self, plan: Plan, *, seconds: float) -> Changed:
        """Run another plan from now on, without a stop; raises errors as `Changes.update` does."""
        self._check()
        async with await self._scaler.give_way():
            return await self._update(continued(self._changes.plan, plan), seconds)

    async def scale(self, lanes: int, *, seconds: float) -> Changed:
        """Run that many lanes from now on; raises `PlanError`, and other errors as `Changes.update` does."""
        if self._plan.per_node:
            raise ChangeError(['lanes("per-node") runs one lane on each node: their number cannot be set'])
        self._check()
        async with await self._scaler.give_way():
            return await self._changes.update(self._changes.plan.with_lanes(lanes), seconds)

    async def _update(self, plan: Plan, seconds: float) -> Changed:
        doors = renewed(self._open_doors, self._changes.plan, plan)
        check_shared(doors, self._changes.plan, plan)
        if doors.version == self._open_doors.version:
            return await self._changes.update(plan, seconds)
        lanes = self._arrangement.lanes if self._arrangement is not None else ()
        try:
            doors = await reserve_ports(lanes, self._open_doors, doors)
            changed = await self._changes.update(plan, seconds)
        except BaseException:
            await abandon_ports(lanes)
            raise
        await self._open_anew(doors)
        return changed

    async def _open_lane(self, lane: LaneHandles, place: LanePlace) -> None:
        """Have one lane more take events."""
        await open_doors(lane, place, self._open_doors)
        await start(lane.ingest.introduce, self._supervisor, self._open_doors, lane.scope)

    async def _open_anew(self, doors: Doors) -> None:
        """Have every lane open its ports again; the supervisor sees to those that are away."""
        self._open_doors = doors
        self._addresses = doors.all
        if self._following is not None:
            self._following.doors = doors
        await self._adopt()
        for lane in self.parts.taking:
            with contextlib.suppress(PolkuError):
                await ask(lane.door, lane.ingest.introduce, self._supervisor, doors, lane.scope)

    def note_reloads(self, reloads: Reloads) -> None:
        """Have statistics and health say what became of the changes until now."""
        self._reloads = structs.replace(reloads, scales=tuple(self._scaler.scales.values()))
        if self._supervisor is not None and self._is_attached:
            self._supervisor.note_reloads.remote(self._reloads)

    async def stop(self, timeout: float) -> StopReport:
        """Stop accepting, flush stages, empty outlets, close emitters; raises `NotRunningError` where Ray is gone."""
        self._check()
        started = time.monotonic()
        await self._changes.stop()
        self._plan = self._changes.plan
        if self._following is not None:
            await self._following.stop()
        complete, fault = False, ""
        try:
            complete = await drain_within(timeout, drain(self.parts), self._look if self._is_durable else None)
        except Exception as error:  # of a part that is away, or of its code; the rest is closed all the same
            fault = first_line(error)
            _LOG.error("the drain ended early: %s", fault)
        if not complete:
            await release(self.parts)
        report = await self.report()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(close(self.parts), _CLOSE_SECONDS)
        await self._kill()
        self._has_ended = True
        return report._replace(complete=complete, seconds=time.monotonic() - started, fault=fault)

    async def report(self) -> StopReport:
        """Ask every lane what became of its events until now."""
        self._check()
        emitters, silent = await outcome(self._plan, self.parts)
        emitters |= {
            name: add_up([emitters[name], each]) for name, each in self._changes.gone.items() if name in emitters
        }
        silent += self._following.lost if self._following is not None else []
        for name, count in (await vanished(self._supervisor)).items():
            if name in emitters:
                emitters[name] = emitters[name]._replace(vanished=count)
        return stop_report(self._plan, emitters, complete=False, seconds=0.0, silent=silent)

    def report_nowait(self) -> None:
        """Return nothing: the parts are in other processes."""
        return

    async def health(self) -> Health:
        """Ask the supervising actor."""
        if self._has_ended:
            return away("pipeline", STOPPED)
        if self._lost or not self._is_attached:
            return away("ray", self._lost or SHUT_DOWN)
        try:
            health: Health = await self._supervisor.health.remote()
        except ray.exceptions.RayError as error:
            return Health(False, {"supervisor": (False, f"does not answer: {type(error).__name__}")}, 0)
        return health

    def health_nowait(self) -> None:
        """Return nothing: the parts are in other processes."""
        return

    async def statistics(self) -> PipelineStatistics:
        """Ask the supervising actor; raises `NotRunningError` where Ray was shut down."""
        self._check()
        try:
            tree: PipelineStatistics = await call(self._supervisor.statistics.remote())
        except ray.exceptions.RayError as error:
            raise UnavailableError(f"the supervisor does not answer: {type(error).__name__}; ask again") from None
        return tree

    def statistics_nowait(self) -> None:
        """Return nothing: the parts are in other processes."""
        return

    async def find(self, event_id: str) -> Found:
        """Ask the buffer of each lane; the answer is not complete where one is away."""
        self._check()
        return await find(self.parts, event_id)

    async def tap(self, request: TapRequest) -> list[TapReply]:
        """Return what each actor has kept for who asks; without those that are away."""
        self._check()
        return await tap(self.parts, request)

    async def dead_letters(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the latest events that could not be delivered, oldest first; without those of a part that is away."""
        self._check()
        return await stored_letters(self.parts, selection, on_disk=self._plan.dead_letters is not None)

    async def change_dead_letters(self, verb: LetterVerb, selection: Selection) -> int:
        """Replay or drop dead letters in the file of each node, and return how many."""
        self._check()
        return await change_letters(self.parts, verb, selection)

    def door(self) -> SendChannel:
        """The way in for senders, picklable."""
        self._check()
        return RayChannel([(lane.ingest, lane.address) for lane in self.parts.taking])

    @property
    def _is_attached(self) -> bool:
        return self._attachment is not None and self._attachment.is_there

    def _check(self) -> None:
        """Raise `NotRunningError` after a stop, and where Ray was shut down: to call anything would start another."""
        if self._has_ended:
            raise NotRunningError(STOPPED)
        if self._attachment is not None:
            self._attachment.check()

    @property
    def _is_durable(self) -> bool:
        return self._plan.buffer.kind is Kind.DURABLE

    async def _look(self) -> list[LaneStatistics]:
        """Return what every lane has counted; nothing while a part does not answer."""
        try:
            return await look(self.parts)
        except ray.exceptions.RayError:
            return []

    async def _create(self) -> None:
        here = self._here = await asyncio.to_thread(this_node)
        check_wildcards(self._plan, self._doors)
        where = await asyncio.to_thread(places, self._plan, here)
        await asyncio.to_thread(check_journals, self._plan, where, here)
        self._arrangement = arrangement = ActorFactory(self._plan)
        self._changes.begin(arrangement, self._open_lane)
        parts = await asyncio.to_thread(arrangement.create, where)
        await start_all([*parts.behind(), *parts.shared.values()])
        doors = replace(self._doors, shared=True)  # by lanes that there are, or that may come
        opened = []
        for lane, place in zip(parts.lanes, where, strict=True):
            addresses, doors = await open_doors(lane, place, doors)
            opened.append(addresses)
        self._addresses = opened[0]
        self._open_doors = doors
        self._started = time.time()
        facts = facts_of(self._plan, "ray", self._started)
        actor: Any = SupervisorActor
        self._supervisor = actor.options(resources=here.needs).remote(
            pack(parts, doors, self._plan.hang_seconds, not self._is_durable, facts),
            surroundings(self._plan, "supervisor"),
        )
        await start(self._supervisor.start)
        await introduce_all(parts.lanes, self._supervisor, doors)
        self._tasks.keep_alive("watching the supervisor", self._keep_watching)
        self._tasks.keep_alive("scaling", partial(self._scaler.watch, lambda: self.parts))
        self._write_out(parts.lanes)
        if self._plan.over_nodes:
            _LOG.info("lanes: %s", ", ".join(f"{lane.number} on {lane.address}" for lane in parts.lanes))
            self._following = NodeWatcher(
                self._plan, arrangement, here, self._supervisor, doors, lambda lane: self._write_out([lane])
            )

    async def _keep_watching(self) -> None:
        """See to it that a supervisor that Ray has started again begins to watch again, and that it knows every lane.

        One that is dead, and not on its way back, is gone with the Ray that it was on.
        """
        while True:
            await asyncio.sleep(_SUPERVISOR_INTERVAL)
            if not self._is_attached:
                self._lost = SHUT_DOWN
                return
            if self._attachment is not None and await asyncio.to_thread(self._attachment.has_ended):
                self._lost = f"{_GONE}: nobody listens at {self._attachment.address}"
                return
            await self._look_at_node()
            try:
                wanted = Known(tuple(lane.number for lane in self.parts.lanes), self._generation)
                if await self._supervisor.start.remote() != wanted:
                    await self._supervisor.adopt.remote(self._known())
            except ray.exceptions.ActorUnavailableError:
                continue
            except ray.exceptions.ActorDiedError as error:
                self._lost = f"{_GONE}: {first_line(error)}"
                return
            except ray.exceptions.RayError as error:
                _LOG.info("the supervising actor does not answer: %s", first_line(error))

    async def _look_at_node(self) -> None:
        """Take note of it where Ray is going to take this node away."""
        with contextlib.suppress(Exception):  # whatever Ray raises where its own service does not answer
            self._leaves_at = (await asyncio.to_thread(draining)).get(self._here.address if self._here else "")

    async def _adopt(self) -> None:
        """Take note of other actors, and have the supervisor watch them; one that is away learns of it later."""
        self._generation += 1
        self._plan = self._changes.plan
        self._write_out(self.parts.lanes)
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            await asyncio.wait_for(call(self._supervisor.adopt.remote(self._known())), _CLOSE_SECONDS)

    def _known(self) -> bytes:
        facts = facts_of(self._changes.plan, "ray", self._started)
        return pack(self.parts, facts, self._generation, self._reloads, self._open_doors)

    def _write_out(self, lanes: Sequence[LaneHandles]) -> None:
        self._console.follow(self._plan, lanes, self._attachment)

    async def _kill(self) -> None:
        await self._changes.close()
        await self._tasks.close()
        if not self._is_attached:
            return
        handles = self._arrangement.parts().all().values() if self._arrangement else ()
        kill([self._supervisor, *handles] if self._supervisor else handles)
        with contextlib.suppress(Exception):  # whatever Ray raises where its own service does not answer
            await self._changes.forget()
        if self._attachment is not None:
            await asyncio.to_thread(self._attachment.release)
