"""The actor that watches over a pipeline: it looks at every part once a second, ends what hangs, and tells the others.

Ray restarts what has died; this actor notices, and has the new process open what was open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
import ray.exceptions

from polku.actors.handles import ActorHandles
from polku.actors.names import same
from polku.actors.nodes import living
from polku.actors.observation import Observation, judge, out_of_reach
from polku.actors.options import ACTOR
from polku.actors.process_watch import ProcessWatch
from polku.actors.remote_watch import RemoteWatch
from polku.actors.shell import Vitals, unpack
from polku.actors.socket_channel import this_node
from polku.actors.surroundings import Surroundings
from polku.aio.tasks import TaskSet
from polku.buffer.statistics import BufferStatistics
from polku.gateway.addresses import Doors
from polku.health import Health
from polku.log import RepeatedLog
from polku.runtime.complaints import Complaints
from polku.runtime.lane import LaneStatistics
from polku.runtime.reloads import Reloads
from polku.runtime.watch import Progress, Watch
from polku.text import named, span

if TYPE_CHECKING:
    from polku.actors.ray_metrics import RayMetrics
    from polku.external.callback import Callback
    from polku.monitoring.collector import Facts
    from polku.monitoring.statistics import PipelineStatistics

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_WATCH = "watching the parts"
_INTERVAL = 1.0  # seconds between two looks
_GLANCE_SECONDS = 1.0  # how long a look waits for parts that do not answer at once
_FRESH = 2.5  # seconds for which a look is fresh enough for who asks for statistics
_PROCESS_START = 5.0  # seconds that Ray may take to start a process again
_PATIENCE = 10.0  # seconds without an answer until a part counts as unhealthy, unless it is killed before
_RESTARTED = "%s was restarted: process %d is now %d; what was in flight to it is sent again"


class Known(NamedTuple):
    """What the supervisor knows: the numbers of the lanes, and which generation of parts, from 0."""

    lanes: tuple[int, ...]
    generation: int


class SupervisorShell:
    """Watch the parts and report on them."""

    def __init__(self, packed: bytes, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._parts: ActorHandles
        self._doors: Doors
        self._hang: float
        self._facts: Facts
        self._parts, self._doors, self._hang, self._in_memory, self._facts = unpack(packed)
        self._generation = 0
        self._reloads = Reloads()
        self._looked_at = -math.inf
        self._progress = Progress()
        self._complaints = Complaints()
        # As far as this life knows all are shut: an ingest may have been started again beside it.
        self._doors_shut = {lane.door: lane for lane in self._parts.lanes}
        self._answered: dict[str, float] = {}
        self._seen: dict[str, Observation] = {}
        self._processes = ProcessWatch(self._note_end)
        self._elsewhere = RemoteWatch(self._note_end)
        self._ended: dict[str, int] = {}  # processes of parts that have
        self._restarts: dict[str, int] = {}
        self._vanished: dict[str, int] = {}  # events by emitter that were in buffers in memory whose process died
        self._begun: dict[object, asyncio.Task[None]] = {}
        self._tasks = TaskSet("supervisor")
        self._handed_on = -math.inf
        self._metrics: RayMetrics | None = None

    async def start(self) -> Known:
        """Begin to watch; return what it knows."""
        if not len(self._tasks):
            self._surroundings.settle()
            self._tasks.keep_alive(_WATCH, self._watch)
        return Known(tuple(lane.number for lane in self._parts.lanes), self._generation)

    async def adopt(self, packed: bytes) -> None:
        """Watch these parts from now on: a lane has come, or gone, or others took the place of some."""
        known = {lane.number for lane in self._parts.lanes}
        before = self._parts.all()
        self._parts, self._facts, self._generation, self._reloads, doors = unpack(packed)
        names = self._parts.all()
        staying = {name for name in names.keys() & before.keys() if same(names[name], before[name])}
        self._seen = {name: sight for name, sight in self._seen.items() if name in staying}
        self._processes.keep(staying)
        self._answered = {name: at for name, at in self._answered.items() if name in staying}
        for name in names.keys() - staying:
            self._begun.pop(name, None)
        renewed = doors.version > self._doors.version
        self._doors = doors
        opened = [lane for lane in self._parts.lanes if not lane.leaving]
        self._doors_shut = {n.door: n for n in opened if renewed or n.number not in known or n.door in self._doors_shut}
        await self._look()

    async def note_reloads(self, reloads: Reloads) -> None:
        """Have statistics and health say what became of the changes until now."""
        self._reloads = reloads

    async def health(self, scope: str = "") -> Health:
        """Judge from what was last seen, or now if nothing was; `scope` is the name of the one lane it is about."""
        await self.start()
        parts = self._parts
        while any(name not in self._seen for name in parts.all()):
            await self._look()
            parts = self._parts
        watch, processed = self._judge(parts, scope)
        return watch.health(processed)

    def _judge(self, parts: ActorHandles, scope: str) -> tuple[Watch, int]:
        """Judge from what was last seen of these parts; return how many events came in, too."""
        watch = Watch(self._progress)
        processed = 0
        for lane in parts.lanes:
            if not lane.name.startswith(scope):
                continue
            watch.lane = lane.name
            processed += sum(judge(watch, name.removeprefix(lane.name), self._seen[name]) for name in lane.all())
        watch.lane = ""
        if self._tasks.fault:
            watch.add("supervisor", self._tasks.fault)
        for part, why in self._reloads.complaints():
            watch.add(part, why)
        for name in parts.shared:
            judge(watch, name, self._seen[name])
        return watch, processed

    async def statistics(self, scope: str = "") -> PipelineStatistics:
        """Return the tree of what was seen of every part within the last seconds, or is seen now.

        `scope` is the name of the one lane that it is about: without what all lanes share.
        """
        from polku.monitoring.collector import Collector
        from polku.monitoring.statistics import ProcessStatistics

        await self.start()
        if time.monotonic() - self._looked_at > _FRESH:
            await self._look()
        health = await self.health(scope)
        collector = Collector(self._facts)
        lanes = [lane for lane in self._parts.lanes if lane.name.startswith(scope)]
        for lane in lanes:
            collector.place(lane.name.rstrip("/"), lane.address)
            for name in lane.all():
                if (counts := self._statistics_of(name)) is None:
                    continue
                if isinstance(counts, LaneStatistics):
                    collector.add_lane(lane.name.rstrip("/"), counts)
                else:
                    collector.add(lane.name.rstrip("/"), name.removeprefix(lane.name), counts)
        if not scope:
            for name in self._parts.shared:
                collector.add_shared(name, self._statistics_of(name))
        for name in (name for lane in lanes for name in lane.all()) if scope else self._parts.all():
            seen = self._seen.get(name)
            if seen is not None and (vitals := seen.vitals) is not None:
                process = ProcessStatistics(
                    pid=vitals.pid,
                    cpu_seconds=vitals.cpu_seconds,
                    memory_bytes=vitals.memory_bytes,
                    restarts=self._restarts.get(name, 0),
                    answers=not seen.complaint,
                )
                collector.add_process(name, process)
        return collector.tree(health, self._reloads)

    def _statistics_of(self, name: str) -> Any:
        seen = self._seen.get(name)
        return None if seen is None else seen.statistics

    async def assign(self, name: str, where: Callback | None) -> None:
        """Tell an emitter that is a place for a plugin where its plugin is."""
        for lane in self._parts.lanes:
            await lane.emitters[name].assign.remote(name, where)

    async def sights(self) -> tuple[dict[str, Observation], dict[str, int]]:
        """Look at every part now; return what was seen and how often each part was restarted."""
        await self._look(patiently=True)
        return self._seen, self._restarts

    async def vanished(self) -> dict[str, int]:
        """Look at every part; return how many events, by emitter, were in buffers in memory that died: about that many.

        It is what the last look before had seen.
        """
        await self._look(patiently=True)
        return self._vanished

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(ray.exceptions.RayError):
                await self._look()
                if self._complain():
                    await self._hand_on()
            self._tasks.works(_WATCH)
            await asyncio.sleep(self._complaints.until_next(_INTERVAL))

    def _complain(self) -> bool:
        """Say in the log what begins to be wrong, once every part was seen; return whether that is so."""
        if not self._seen.keys() >= self._parts.all().keys():
            return False
        watch, processed = self._judge(self._parts, "")
        pids = {name: seen.vitals.pid for name, seen in self._seen.items() if seen.vitals is not None}
        self._complaints.note(watch.health(processed), lambda: self._facts.plan, pids)
        return True

    def _note_end(self, name: str, pid: int, silence: str = "") -> None:
        """Take note of a process that has just ended, or (`silence`) may have: the next look would hear of it later."""
        seen = self._seen.get(name)
        if seen is None or seen.vitals is None or seen.vitals.pid != pid or (silence and seen.ended):
            return
        if not silence:  # else it may answer again
            self._ended[name] = pid
        why = silence or f"does not answer: its process {pid} has ended"
        self._seen[name] = seen._replace(complaint=why, ended=True)
        self._expect(name)
        self._complain()

    async def _hand_on(self) -> None:
        """Hand the metrics to Ray's own where the environment asks for that."""
        if os.environ.get("POLKU_METRICS", "").strip().lower() != "ray":
            return
        from polku.actors.ray_metrics import INTERVAL_SECONDS, RayMetrics

        if time.monotonic() - self._handed_on >= INTERVAL_SECONDS:
            self._handed_on = time.monotonic()
            self._metrics = self._metrics or RayMetrics()
            self._metrics.hand_on(await self.statistics())

    async def _look(self, *, patiently: bool = False) -> None:
        """Look at every part, and wait a second for their answers: a silent one holds up no other.

        What is not answered by then is noted when it is; until then the part is not asked again. Wait for all, of now,
        where that is to be done `patiently`.
        """
        seconds = None if patiently else _GLANCE_SECONDS
        if patiently:  # a look in progress may show what was before
            await asyncio.gather(*(task for task in self._begun.values() if not task.done()))
        looks = [self._begin(name, partial(self._see, name, handle)) for name, handle in self._parts.all().items()]
        await _wait(looks, seconds)
        self._looked_at = time.monotonic()
        self._elsewhere.watch(self._parts.all(), self._seen, this_node())
        others = [self._begin(("door", door), partial(self._introduce, door)) for door in self._doors_shut]
        others.append(self._begin("shared", self._tell_shared))
        await _wait(others, seconds)

    def _begin(self, key: object, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Return the task of some work, which is begun unless it is in progress."""
        task = self._begun.get(key)
        if task is None or task.done():
            task = self._begun[key] = asyncio.get_running_loop().create_task(work())
        return task

    async def _see(self, name: str, handle: Any) -> None:
        """Look at one part, and note what is new about it."""
        sight = await self._look_at(name, handle)
        if self._parts.all().get(name) is not handle:  # it is gone
            return
        if sight.vitals is not None:
            if sight.vitals.pid == self._ended.get(name):  # it has answered before it ended
                return
            if sight.vitals.node == this_node():
                self._processes.watch(name, sight.vitals.pid)
        before = self._seen.get(name)
        known = before.vitals if before else None
        if known and sight.vitals and known.epoch != sight.vitals.epoch:
            self._restarts[name] = self._restarts.get(name, 0) + 1
            _REPEATED.warning((name, "restarted"), _RESTARTED, name, known.pid, sight.vitals.pid)
            self._count_vanished(name, before.statistics if before else None)
            own = [lane for lane in self._parts.lanes if lane.door == name and not lane.leaving]
            self._doors_shut |= {lane.door: lane for lane in own}
        if before is not None and known and sight.vitals is None:  # what is known of it until it is back
            sight = sight._replace(vitals=known, statistics=before.statistics)
        self._seen[name] = sight

    async def _introduce(self, door: str) -> None:
        """Tell a lane's ingest where its doors are; one that user code blocks, or that is away, is asked again."""
        lane = self._doors_shut[door]
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            async with asyncio.timeout(min(_PATIENCE, self._hang)):
                await lane.ingest.introduce.remote(_this_actor(), self._doors, lane.scope)
                self._doors_shut.pop(door, None)

    def _count_vanished(self, name: str, statistics: Any) -> None:
        """Count what a buffer in memory held that died, once."""
        buffer = statistics.buffer if isinstance(statistics, LaneStatistics) else statistics
        if not self._in_memory or not isinstance(buffer, BufferStatistics):
            return
        for emitter, outlet in buffer.outlets.items():
            if gone := outlet.at_risk:
                _LOG.error("%s died with about %d events for emitter %s: they are lost", name, gone, emitter)
                self._vanished[emitter] = self._vanished.get(emitter, 0) + gone

    async def _tell_shared(self) -> None:
        """Tell the shared stages which lanes they serve, and start one again that waits for a lane lost with its node.

        It would let others wait: a Deduplicator the copies of what came from there, an Aggregator what it has put
        together with that. What it held comes again from those who sent it.
        """
        if not self._parts.shared:
            return
        seen = [(lane, self._seen.get(lane.door)) for lane in self._parts.lanes]
        away = [lane for lane, sight in seen if sight is not None and sight.complaint]
        alive = await asyncio.to_thread(living) if away else frozenset()
        lost = {lane.number for lane in away if lane.address not in alive}
        # Lanes may have come and gone meanwhile: what is told has to be true now.
        lanes = frozenset(lane.number for lane in self._parts.lanes if lane.number not in lost)
        leaving = frozenset(lane.number for lane in self._parts.lanes if lane.leaving)
        tells = [self._tell(name, handle, lanes, leaving) for name, handle in self._parts.shared.items()]
        await asyncio.gather(*tells)

    async def _tell(self, name: str, handle: Any, lanes: frozenset[int], leaving: frozenset[int]) -> None:
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            async with asyncio.timeout(min(_PATIENCE, self._hang)):
                waits = await handle.serve.remote(lanes, leaving)
            if waits:
                _REPEATED.warning(
                    (name, "again"), "%s is started again: it waits for a lane that is lost with its node", name
                )
                self._expect(name)
                ray.kill(handle, no_restart=False)

    async def _look_at(self, name: str, handle: Any) -> Observation:
        vitals: Vitals | None = None
        try:
            async with asyncio.timeout(min(_PATIENCE, self._hang)):
                vitals = await handle.vitals.remote()
                sight = Observation(vitals, await handle.statistics.remote(), "")
                self._answered[name] = time.monotonic()
                return sight
        except TimeoutError:
            silent = self._end_if_hanging(name, handle)
            return Observation(None, None, f"has not answered for {span(silent)}")
        except ray.exceptions.RayActorError as error:
            self._expect(name)
            return Observation(None, None, out_of_reach(error), ended=True)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            what = "cannot start" if vitals is None else "does not report"
            return Observation(None, None, f"{what}: {named(cause)}")

    def _end_if_hanging(self, name: str, handle: Any) -> float:
        """Kill a part that user code has blocked for too long; Ray starts it again. Return how long it is silent.

        A new life has the time to start that the one before took, twice.
        """
        if name not in self._answered:
            self._expect(name)
        silent = time.monotonic() - self._answered[name]
        if silent >= self._hang:
            _REPEATED.error(
                (name, "hangs"), "%s has not answered for %.0f s: something in it blocks; it is killed", name, silent
            )
            self._expect(name)
            ray.kill(handle, no_restart=False)
        return max(silent, 0.0)

    def _expect(self, name: str) -> None:
        """Count silence only from when a new life of a part must have started."""
        seen = self._seen.get(name)
        opening = seen.vitals.open_seconds if seen and seen.vitals else 60.0
        self._answered[name] = time.monotonic() + _PROCESS_START + 2 * opening


async def _wait(tasks: Iterable[asyncio.Task[None]], seconds: float | None) -> None:
    """Wait for tasks that long; raise what one failed with that is done."""
    done, _ = await asyncio.wait(list(tasks), timeout=seconds)
    for task in done:
        task.result()


def _this_actor() -> Any:
    return ray.get_runtime_context().current_actor


SupervisorActor = ray.remote(**ACTOR)(SupervisorShell)
