"""Run a whole pipeline in this process: the same objects as on Ray, connected by plain awaits in one event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Awaitable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from polku.aio import loop_thread
from polku.aio.pulse import Pulse
from polku.buffer.copies import Found
from polku.buffer.strategy import Kind
from polku.change.contents import Contents, contents_of
from polku.change.difference import difference
from polku.dead_letters import DeadLetter, DeadLetters, LetterVerb
from polku.errors import ChangeError, NotRunningError, SettingError
from polku.gateway.addresses import Addresses, Doors
from polku.gateway.gateway import Gateway, check_doors
from polku.gateway.intake import Intake
from polku.gateway.reservation import Reservation, reserve_doors
from polku.health import Health
from polku.hooks import close_each
from polku.log import RepeatedLog
from polku.log_format import Origin, name_process
from polku.plan import Plan
from polku.runtime import STOPPED
from polku.runtime.assembly import build_dead_letters, build_registry
from polku.runtime.blocked import with_loop
from polku.runtime.changing import Changed, ChangingLane
from polku.runtime.complaints import Complaints
from polku.runtime.lane import LaneStatistics
from polku.runtime.memory import private_memory
from polku.runtime.ports import renewed
from polku.runtime.reloads import Reloads
from polku.runtime.report import EmitterReport, StopReport, report_outcome, stop_report
from polku.runtime.standstill import drain_within
from polku.runtime.watch import Progress, Watch
from polku.sender import SendChannel
from polku.tap.request import TapReply, TapRequest
from polku.tap.taps import Taps
from polku.text import named
from polku.tracing.export import still_traced
from polku.usercode import contained

if TYPE_CHECKING:
    from polku.dead_letters.store import Selection
    from polku.monitoring.collector import Facts
    from polku.monitoring.statistics import PipelineStatistics

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_LOOK_SECONDS = 1.0  # between two looks for back-pressure


class InlineRuntime:
    """Run one lane within the event loop, and open its doors."""

    def __init__(self, plan: Plan, doors: Doors) -> None:
        self._plan = plan
        self._doors = doors
        self._addresses = Addresses()
        self._dead_letters: DeadLetters = build_dead_letters(plan)
        self._lane = ChangingLane(plan, self._dead_letters)
        self._contents = contents_of(plan)
        self._updating: asyncio.Future[Changed] | None = None
        self._is_stopping = False
        self._reloads = Reloads()
        self._gateway: Gateway | None = None
        self._progress = Progress()
        self._complaints = Complaints()
        self._ended = threading.Event()
        self._started = time.time()
        self._taps: Taps | None = None
        self._pulse: Pulse | None = None

    @property
    def addresses(self) -> Addresses:
        """Where the gateway is open, if it is."""
        return self._addresses

    @property
    def notice(self) -> str:
        """Nothing: the pipeline runs in this process."""
        return ""

    @property
    def lost(self) -> str:
        """Nothing: the pipeline is there for as long as this process is."""
        return ""

    @property
    def leaves_within(self) -> None:
        """Nothing: nobody says when this process has to end."""
        return

    async def dead_letters(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the latest events that could not be delivered, all or those that are chosen, oldest first."""
        return await self._dead_letters.stored(selection)

    async def change_dead_letters(self, verb: LetterVerb, selection: Selection) -> int:
        """Replay or drop dead letters, and return how many."""
        return await self._dead_letters.change(verb, selection)

    async def start(self) -> None:
        """Build from the back to the front, then open the door."""
        name_process(Origin(self._plan.name, node=socket.gethostname()))
        self._pulse = Pulse(asyncio.get_running_loop())
        try:
            if self._plan.buffer.path:
                from polku.runtime.orphaned_journals import check_left  # SQLite, for who has a journal

                check_left(self._plan.buffer.path, self._plan.lanes)
            await self._lane.open()
            registry = build_registry(self._plan, self._lane.intake, self._lane.assign)
            self._gateway = Gateway(self._lane.intake, self.health, registry, self._metrics)
            self._addresses = await self._gateway.open(self._doors)
            self._begin_watch()
        except BaseException:
            await self._close()
            raise

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        from polku.monitoring.exposition import write_metrics

        return write_metrics(await self.statistics(), accept)

    async def stop(self, timeout: float) -> StopReport:
        """Stop accepting, flush stages, empty outlets, close emitters: one deadline for all of it."""
        started = time.monotonic()
        self._is_stopping = True
        if self._updating is not None:
            await asyncio.wait([self._updating], timeout=timeout / 2)
        look = self._look if self._plan.buffer.kind is Kind.DURABLE else None
        complete, fault = False, ""
        try:
            complete = await drain_within(timeout, contained(self._drain()), look)
        except Exception as error:  # the rest is closed all the same
            _LOG.error("the drain ended early: %s", named(error), exc_info=error)
            fault = named(error)
        if not complete:
            await self._lane.release()
        report = stop_report(self._plan, self._outcome(), complete=complete, seconds=time.monotonic() - started)
        await self._close()
        return report._replace(fault=fault)

    async def report(self) -> StopReport:
        """Return what would be reported if the pipeline ended now."""
        return self.report_nowait()

    def report_nowait(self) -> StopReport:
        """Return it; from any thread, also while user code blocks the event loop."""
        outcome = report_outcome(self._plan, self._lane.statistics().buffer.outlets)
        return stop_report(self._plan, outcome, complete=False, seconds=0.0)

    async def update(self, plan: Plan, *, seconds: float) -> Changed:
        """Run another plan from now on, without a stop; raises `ChangeError`, and then nothing was changed."""
        if self._is_stopping:
            raise ChangeError(["the pipeline is stopping"])
        if self._updating is not None and not self._updating.done():
            raise ChangeError(["another change is in progress"])
        self._updating = asyncio.ensure_future(contained(self._update(plan, seconds)))
        return await asyncio.shield(self._updating)

    async def scale(self, lanes: int, *, seconds: float) -> Changed:
        """Raise `ChangeError`."""
        raise ChangeError(["the inline runtime has one lane, so their number cannot be chosen"])

    def note_reloads(self, reloads: Reloads) -> None:
        """Have statistics and health say what became of the changes until now."""
        self._reloads = reloads

    async def _update(self, plan: Plan, seconds: float) -> Changed:
        plan = still_traced(plan, self._plan)
        contents = contents_of(plan, self._contents)
        found = difference(self._contents, contents)
        if found.refusals:
            raise ChangeError(found.refusals, str(found))
        if found.is_empty:
            return Changed(found)
        doors = renewed(self._doors, self._plan, plan)
        reserved: Reservation | None = None
        try:
            if doors.version != self._doors.version:
                check_doors(doors)
                reserved = await reserve_doors(self._doors, doors, alone=True)
            done = await self._lane.change(self._contents, contents, found, seconds=seconds)
            await self._take_over(contents, doors, reserved)
        except SettingError as error:
            raise ChangeError([str(error)], str(found)) from error
        except ChangeError as error:
            raise ChangeError(error.reasons, str(found)) from error
        finally:
            if reserved is not None:
                reserved.close()
        return done

    async def _take_over(self, contents: Contents, doors: Doors, reserved: Reservation | None) -> None:
        """Take note of another plan, and have the ports opened as it says.

        The doors stay as they were said, also where a port was any: so they are the same when they are said again.
        """
        self._contents = contents
        self._plan = contents.plan
        self.__dict__.pop("_facts", None)  # they are of the plan before
        self._taps = None  # those of the parts of before end
        if self._gateway is not None:
            self._doors, self._addresses = doors, await self._gateway.exchange(doors, reserved)

    async def health(self) -> Health:
        """Return the state of every part."""
        return self.health_nowait()

    def health_nowait(self) -> Health:
        """Return the state of every part; from any thread, also while user code blocks the event loop."""
        return self._health_of(self._lane.statistics())

    async def statistics(self) -> PipelineStatistics:
        """Return what every part has counted, as one tree."""
        return self.statistics_nowait()

    def statistics_nowait(self) -> PipelineStatistics:
        """Return the tree; from any thread, also while user code blocks the event loop."""
        from polku.monitoring.collector import Collector
        from polku.monitoring.statistics import ProcessStatistics

        counts = self._lane.statistics()
        collector = Collector(self._facts)
        collector.add_lane("", counts)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = used.ru_utime + used.ru_stime
        process = ProcessStatistics(pid=os.getpid(), cpu_seconds=seconds, memory_bytes=private_memory())
        collector.add_process("pipeline", process)
        return collector.tree(self._health_of(counts), self._reloads)

    @cached_property
    def _facts(self) -> Facts:
        from polku.monitoring.collector import facts_of

        return facts_of(self._plan, "inline", self._started)

    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are."""
        return await self._lane.find(event_id)

    async def tap(self, request: TapRequest) -> list[TapReply]:
        """Return what was kept for who asks."""
        if self._taps is None:
            self._taps = Taps(self._lane.tapped(), self._plan.redaction)
        return [self._taps.read(request)]

    def _health_of(self, counts: LaneStatistics) -> Health:
        busy = [stage.step for stage in counts.stages.values() if stage.step]
        return with_loop(self._judge(counts).health(counts.intake.received), self._pulse, busy)

    def _judge(self, counts: LaneStatistics) -> Watch:
        watch = Watch(self._progress)
        watch.add_lane(counts)
        for part, why in self._reloads.complaints():
            watch.add(part, why)
        return watch

    def _begin_watch(self) -> None:
        threading.Thread(target=self._watch, name="polku-watch", daemon=True).start()

    def _watch(self) -> None:
        """Look how the parts are until the pipeline ends; in a thread, as user code may block the event loop."""
        while not self._ended.wait(self._complaints.until_next(_LOOK_SECONDS)):
            try:
                if self._pulse is not None:
                    self._pulse.stuck()  # asks for a turn, so that who asks for the health later learns since when
                health = self.health_nowait()
                if not self._is_stopping:
                    self._complaints.note(health, lambda: self._facts.plan, {"pipeline": os.getpid()})
            except BaseException:  # of user code that was asked for its statistics
                _REPEATED.exception("watch", "back-pressure cannot be seen")

    def door(self) -> SendChannel:
        """The way in for senders of this process."""
        return InlineChannel(self._lane.intake, self._ended)

    async def _drain(self) -> None:
        self._lane.intake.stop()
        if self._gateway is not None:
            await self._gateway.stop_serving()
        await self._lane.drain_intake()
        await self._lane.drain_buffer()
        if self._gateway is not None:  # until here it told clients that the pipeline is draining
            await self._gateway.close(1.0)

    async def _close(self) -> None:
        gateway = [("the gateway", partial(self._gateway.close, 0))] if self._gateway is not None else []
        self._ended.set()
        await close_each([*gateway, ("the lane", self._lane.close)])
        if self._plan.traces is not None:
            from polku.tracing.tracer import flush

            await flush()

    async def _look(self) -> list[LaneStatistics]:
        return [self._lane.statistics()]

    def _outcome(self) -> dict[str, EmitterReport]:
        try:
            return report_outcome(self._plan, self._lane.statistics().buffer.outlets)
        except NotRunningError:
            return {}


class InlineChannel:
    """Reach the intake of this process from any of its threads and event loops."""

    def __init__(self, intake: Intake, ended: threading.Event) -> None:
        self._intake = intake
        self._ended = ended
        self._process = os.getpid()

    def submit(self, message: bytes, timeout: float | None) -> bytes:
        """Block until the answer is there."""
        loop_thread.check_process(self._process)
        loop_thread.check_elsewhere("await sender.send_async(...) in an async function")
        try:
            return loop_thread.submit(self._submit(message)).result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"no answer within {timeout} s; the events may have been accepted") from None

    def submit_async(self, message: bytes) -> Awaitable[bytes]:
        """Return the awaitable of the answer."""
        loop_thread.check_process(self._process)
        return asyncio.wrap_future(loop_thread.submit(self._submit(message)))

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a sender of the inline runtime belongs to its process; use the ray runtime to send it on")

    async def _submit(self, message: bytes) -> bytes:
        if self._ended.is_set():
            raise NotRunningError(STOPPED)
        return (await self._intake.batch(message)).SerializeToString()
