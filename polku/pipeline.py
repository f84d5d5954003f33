"""A running pipeline, as the program that started it sees it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from polku.aio import loop_thread
from polku.dead_letters import DeadLetter
from polku.errors import ChangeError, NotRunningError
from polku.gateway.addresses import Addresses, Doors
from polku.health import Health
from polku.plan import Plan
from polku.runtime import STOPPED, UNCOPIED, Runtime, unstopped
from polku.runtime.reloads import Reloads
from polku.runtime.report import StopReport
from polku.sender import Sender
from polku.text import said

if TYPE_CHECKING:
    from polku.hub import Hub
    from polku.monitoring.address import Admin
    from polku.monitoring.admin_thread import AdminThread
    from polku.monitoring.run_files import RunFile
    from polku.monitoring.statistics import PipelineStatistics
    from polku.runtime.changing import Changed
    from polku.runtime.reloading import Reloader

_LOG = logging.getLogger(__name__)
_ELSEWHERE = "ask from another thread, as by asyncio.to_thread"


class Pipeline:
    """Send events to it, ask how it is, stop it; a `with` or `async with` block stops it at its end.

    `start` errors are raised by the constructor, or, where that was called inside a running event loop, by
    `async with` and by the first use.
    """

    def __init__(
        self,
        plan: Plan,
        runtime: str,
        doors: Doors,
        *,
        admin: Admin | None = None,
        wait: bool = True,
        reloader: Reloader | None = None,
        is_told: bool = False,
    ) -> None:
        self.plan = plan
        self._is_told = is_told  # which runtime, so that what a hub says of it does not count
        self._reloader = reloader
        self._reloads = Reloads()
        self._runtime = _make_runtime(plan, runtime, doors)
        self._runtime_name = runtime
        self._run_file: RunFile | None = None
        self._admin = admin
        self._admin_server: AdminThread | None = None
        self._admin_address: str | None = None
        self._process = os.getpid()
        self._starting = loop_thread.submit(self._start())
        self._ready = loop_thread.detached(self._starting)
        self._is_awaited = False
        self._stopping: concurrent.futures.Future[StopReport] | None = None
        unstopped.watch(self)
        if wait and asyncio._get_running_loop() is not None:
            self._ready.add_done_callback(self._say_unseen)
        elif wait:
            try:
                self.wait_ready()
            except BaseException:
                self._abandon()
                raise

    def wait_ready(self) -> None:
        """Block until the pipeline is ready for events; raises what kept it from starting."""
        loop_thread.check_process(self._process)
        self._wait_ready()

    @property
    def runtime(self) -> str:
        """The name of the runtime: `ray` or `inline`."""
        return self._runtime_name

    @property
    def notice(self) -> str:
        """Which Ray the pipeline runs on, in a sentence; empty with the inline runtime."""
        return self._runtime.notice

    @property
    def lost(self) -> str:
        """Why the pipeline is gone although nobody has stopped it, such as with its Ray; empty while it is there."""
        return self._runtime.lost

    @property
    def has_ended(self) -> bool:
        """Whether it has not started, or was stopped: nothing of it is left."""
        failed = self._ready.done() and self._ready.exception() is not None
        return failed or (self._stopping is not None and self._stopping.done())

    @property
    def leaves_within(self) -> float | None:
        """How many seconds there are to stop it, as Ray drains the node of this program; None while that stays."""
        return self._runtime.leaves_within

    @property
    def address(self) -> str | None:
        """The `host:port` on which the gateway is open for gRPC, or None where it is not."""
        self._wait_ready()
        return self._runtime.addresses.grpc

    @property
    def http_address(self) -> str | None:
        """The `host:port` on which the gateway is open for HTTP, or None where it is not."""
        self._wait_ready()
        return self._runtime.addresses.http

    @property
    def otlp_address(self) -> str | None:
        """The second `host:port` for gRPC, where clients of OTLP look, or None where it is not open."""
        self._wait_ready()
        return self._runtime.addresses.otlp

    @property
    def otlp_http_address(self) -> str | None:
        """The second `host:port` for HTTP, where clients of OTLP look, or None where it is not open."""
        self._wait_ready()
        return self._runtime.addresses.otlp_http

    @property
    def admin_address(self) -> str | None:
        """Where statistics, metrics and health are, or None: `host:port`, `https://host:port` or `unix:path`."""
        self._wait_ready()
        return self._admin_address

    def sender(self) -> Sender:
        """Return a handle for sending events; on Ray it can be pickled into any task or actor."""
        self.wait_ready()
        self._check_runs()
        return Sender(self._runtime.door())

    def health(self) -> Health:
        """Ask every part how it is; answers too while user code blocks a part."""
        self.wait_ready()
        now = self._runtime.health_nowait()
        if now is not None:
            return now
        return loop_thread.call(self._runtime.health(), _ELSEWHERE)

    def statistics(self, *, timeout: float | None = None) -> PipelineStatistics:
        """Return what every part has counted, as one frozen tree with `to_json()`; the same on both runtimes.

        Inside a process it is of now, and answers too while user code blocks a part; on Ray it is what the supervisor
        has seen within the last second. Counters begin at the start of each part's process. Raises `TimeoutError`
        where the supervisor does not answer within `timeout` seconds.
        """
        self.wait_ready()
        now = self._runtime.statistics_nowait()
        if now is not None:
            return now
        return loop_thread.call(self._runtime.statistics(), "await pipeline.statistics_async()", timeout)

    async def statistics_async(self) -> PipelineStatistics:
        """Return the statistics, without blocking the event loop."""
        await self._ready_async()
        now = self._runtime.statistics_nowait()
        if now is not None:
            return now
        return await asyncio.wrap_future(loop_thread.submit(self._runtime.statistics()))

    def dead_letters(self) -> list[DeadLetter]:
        """Return the latest events that could not be delivered, with their reasons, oldest first."""
        self.wait_ready()
        return loop_thread.call(self._runtime.dead_letters(), _ELSEWHERE)

    async def update(self, hub: Hub, *, timeout: float = 10.0) -> Changed:
        """Run another hub's pipeline from now on, without a stop: only what differs is exchanged.

        Clients stay connected, and no event is lost, held twice or out of order. What is new is started first, next to
        what runs; the parts that it takes the place of have `timeout` seconds to come to rest. Raises `PlanError` where
        the hub's plan cannot work, and `ChangeError` where it cannot take the place of the one that runs, or a part of
        it does not start: nothing is changed then, unless the error says that the change failed halfway; only a restart
        helps then.
        """
        await self._ready_async()
        self._check_runs()
        plan = self.plan_of(hub)
        return await self._changed(self._runtime.update(plan, seconds=timeout), partial(self._take_over, plan))

    def plan_of(self, hub: Hub) -> Plan:
        """Return the plan of a hub that is to run here; raises `ChangeError` where that is for another runtime."""
        if not self._is_told and (other := hub._chosen(None)) != self._runtime_name:
            before = f"{self._runtime_name} before, {other} now"
            raise ChangeError([f"the runtime cannot be changed while the pipeline runs ({before}); restart it"])
        return hub.plan(self._runtime_name)

    async def scale(self, lanes: int, *, timeout: float = 10.0) -> Changed:
        """Run that many lanes from now on, as `update` does for a hub with `lanes(…)`; on Ray.

        New lanes take connections next to those that there are. Lanes that go ask their clients to connect again, and
        are parts until they have delivered what they hold. A later `update` has as many lanes as its hub says. With
        `lanes(min=…, max=…)` the number must be within these, and others may be decided on by need from there.
        """
        await self._ready_async()
        self._check_runs()
        return await self._changed(
            self._runtime.scale(lanes, seconds=timeout), lambda: self._take_over(self.plan.with_lanes(lanes))
        )

    async def _changed(self, change: Coroutine[None, None, Changed], done: Callable[[], None]) -> Changed:
        """Do all of a change, also where who asked for it waits no longer."""
        return await asyncio.wrap_future(loop_thread.detached(loop_thread.submit(self._noted(change, done))))

    async def _noted(self, change: Coroutine[None, None, Changed], done: Callable[[], None]) -> Changed:
        try:
            changed = await change
        except ChangeError as error:
            self._note(self._reloads.noted(said(error)))
            raise
        self._note(self._reloads.noted())
        done()
        return changed

    def update_plan(self, plan: Plan, *, timeout: float = 10.0) -> Changed:
        """Do what `update` does, with a plan, and block until it is done: not inside of the event loop.

        The caller notes what became of it (`note_reload`).
        """
        self._check_runs()
        changed = loop_thread.call(self._runtime.update(plan, seconds=timeout), "await pipeline.update(...)")
        self._take_over(plan)
        return changed

    def _take_over(self, plan: Plan) -> None:
        """Take note of another plan, and have `polku ps` list its addresses."""
        is_moved = self.plan.listen != plan.listen
        self.plan = plan
        if is_moved and self._run_file is not None:
            self._run_file.close()
            self._name()

    def note_reload(self, refused: str = "") -> None:
        """Have statistics count a reload; health says why the latest one changed nothing (empty: it was done)."""
        self._note(self._reloads.noted(refused, alarms=True))

    def _note(self, reloads: Reloads) -> None:
        self._reloads = reloads
        self._runtime.note_reloads(reloads)

    def stop(self, timeout: float = 30.0) -> StopReport:
        """Drain within `timeout` seconds: stop accepting, flush stages, empty outlets, close emitters.

        Returns what was delivered and what was not. Calling it again returns the same report.
        """
        loop_thread.check_elsewhere("await pipeline.stop_async() in a task of its own, or call pipeline.stop_nowait()")
        return self._stop(timeout).result()

    async def stop_async(self, timeout: float = 30.0) -> StopReport:
        """Drain like `stop`, without blocking the event loop; the drain goes on where the caller is cancelled."""
        return await asyncio.wrap_future(self._stop(timeout))

    def __enter__(self) -> Pipeline:
        self.wait_ready()
        self._check_runs()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if os.getpid() == self._process:  # a fork leaves it to the process that has the pipeline
            self.stop()

    async def __aenter__(self) -> Pipeline:
        try:
            await self._ready_async()
        except asyncio.CancelledError:  # nobody is left who would stop it
            self._abandon()
            raise
        self._check_runs()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if os.getpid() == self._process:
            await self.stop_async()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(UNCOPIED)

    def _repr_html_(self) -> str:
        """Return a picture of the pipeline, for notebooks."""
        from polku.picture import picture

        return picture(self.plan, self.lost or self.notice)

    def stop_nowait(self, timeout: float = 30.0) -> concurrent.futures.Future[StopReport]:
        """Begin to drain like `stop`, and return the future of the report, which cannot be cancelled."""
        return self._stop(timeout)

    def report_nowait(self) -> concurrent.futures.Future[StopReport]:
        """Return the future of what `stop` would report if the pipeline ended now, or what it reported."""
        if self._stopping is not None and self._stopping.done():
            return self._stopping
        now = self._runtime.report_nowait()
        if now is None:
            return loop_thread.submit(self._runtime.report())
        found: concurrent.futures.Future[StopReport] = concurrent.futures.Future()
        found.set_result(now)
        return found

    def end_nowait(self, timeout: float) -> concurrent.futures.Future[StopReport] | None:
        """Begin to drain as the program ends, or report a drain that was interrupted; None where there is nothing."""
        if self.has_ended or not self._ready.done() or os.getpid() != self._process:
            return None
        return self._stop(timeout) if self._stopping is None else self.report_nowait()

    def _check_runs(self) -> None:
        """Raise `NotRunningError` after the end of the pipeline."""
        if self._stopping is not None and self._stopping.done():
            raise NotRunningError(STOPPED)

    def _abandon(self) -> None:
        """End a start that was interrupted, and what it has started: nobody has the pipeline."""
        if not self._starting.cancel() and self._starting.exception() is None:
            self._stop(0.0)

    def _say_unseen(self, ready: concurrent.futures.Future[None]) -> None:
        """Log why the pipeline did not start where nobody has waited for that yet."""
        if not self._is_awaited and (error := ready.exception()) is not None:
            _LOG.error("pipeline %s did not start: %s", self.plan.name, said(error))

    def _wait_ready(self) -> None:
        self._is_awaited = True
        loop_thread.wait(self._ready, "begin with `async with hub.start() as pipeline`, on another event loop")

    async def _ready_async(self) -> None:
        loop_thread.check_process(self._process)
        self._is_awaited = True
        await asyncio.wrap_future(self._ready)

    def _stop(self, timeout: float) -> concurrent.futures.Future[StopReport]:
        loop_thread.check_process(self._process)
        if self._stopping is None:
            self._stopping = loop_thread.detached(loop_thread.submit(self._stop_all(timeout)))
        return self._stopping

    async def _start(self) -> None:
        await self._runtime.start()
        if self._admin is not None:
            await self._open_admin(self._admin)
        if self._admin_address or self._runtime.addresses != Addresses():
            self._name()

    def _name(self) -> None:
        """Have `polku ps` list this pipeline: somebody can reach it."""
        from polku.monitoring.run_files import RunFile, running_pipeline

        listed = running_pipeline(
            self.plan.name, self._runtime_name, self._runtime.addresses, self._admin, self._admin_address
        )
        key = self._admin_server.key if self._admin_server is not None else ""
        self._run_file = RunFile(listed._replace(key=key))

    async def _open_admin(self, admin: Admin) -> None:
        from polku.monitoring.admin_thread import AdminThread

        self._admin_server = AdminThread(admin, self._runtime, self.plan.redaction, self._reloader)
        try:
            self._admin_address = await self._admin_server.start()
        except BaseException:
            await self._runtime.stop(0.0)
            raise

    async def _stop_all(self, timeout: float) -> StopReport:
        """Drain; the admin address shows how that goes."""
        try:
            return await self._runtime.stop(timeout)
        finally:
            if self._run_file is not None:
                self._run_file.close()
            if self._admin_server is not None:
                await self._admin_server.close()


def _make_runtime(plan: Plan, name: str, doors: Doors) -> Runtime:
    if name == "inline":
        from polku.runtime.inline import InlineRuntime

        return InlineRuntime(plan, doors)
    from polku.actors.runtime import RayRuntime

    return RayRuntime(plan, doors)
