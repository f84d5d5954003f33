"""Serve a pipeline until a signal comes, then drain it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import wait
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from polku.aio import loop_thread
from polku.aio.pulse import Pulse
from polku.cycles import collect_cycles_seldom
from polku.errors import PipelineError
from polku.gateway.exposure import exposure
from polku.gateway.places import raise_descriptors
from polku.log_format import say, warn
from polku.monitoring.run_files import is_command
from polku.runtime.drain import drain_seconds
from polku.runtime.hurried_end import HurriedEnd, say_outcome
from polku.runtime.memory import give_back_when_quiet
from polku.runtime.notify import Notifier
from polku.runtime.report import LOST_STATUS, stop_report

if TYPE_CHECKING:
    from polku.buffer.strategy import BufferStrategy
    from polku.gateway.addresses import Doors
    from polku.monitoring.address import Admin
    from polku.monitoring.statistics import PipelineStatistics
    from polku.pipeline import Pipeline
    from polku.runner import Runner
    from polku.runtime.reloading import Reloader
    from polku.runtime.report import StopReport
    from polku.runtime.status_line import StatusLine

_ELSEWHERE = "run waits for signals, of which only the main thread is told; elsewhere use start and stop"
_LOST_SECONDS = 0.5
_LOOK_SECONDS = 2.0
_DRAIN_LOOK_SECONDS = 0.5
_DRAIN_LINE_SECONDS = 5.0
_CLOSED = ": SIGHUP, as of a terminal that is closed"
_NOT_RELOADED = ": SIGHUP, and there is no pipeline file to load again; start it again to have its settings read"


def serve(
    runner: Runner,
    doors: Doors,
    *,
    admin: Admin | None = None,
    drain: float | None = None,
    reloader: Reloader | None = None,
    progress: bool = False,
) -> None:
    """Start, say on standard error which addresses are open, wait for SIGINT, SIGTERM or SIGHUP, drain, and report.

    A drain takes `drain` seconds at most, or as many as the environment's `POLKU_DRAIN_SECONDS` says, or 30. A second
    signal ends the drain, with the same report of what is lost by that, and exit status 130 where nothing is; one that
    comes while the pipeline starts drains it as soon as it has started. SIGHUP is left alone where it is ignored, as
    under `nohup`, and has a `reloader` do its work where there is one and no terminal; else it drains, and a line says
    why. At the end the handlers of before are back. Raises `PipelineError` outside of the main thread, which alone is
    told of signals.

    With `progress` a terminal has a line below that says what flows. A drain that takes long says what is left.

    Raises `SystemExit` with status 3, after a line that says how many, where acknowledged events are lost.
    """
    if threading.current_thread() is not threading.main_thread():
        raise PipelineError(
            "run waits for signals, of which only the main thread is told; elsewhere use start and stop"
        )
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        _serve(runner, doors, admin=admin, drain=drain, reloader=reloader, progress=progress)
    finally:
        if not is_command():  # which ends now: signals that come meanwhile are too late
            _restore(before)


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    """Put handlers back in the place of those of this module."""
    for number, handler in before.items():
        if handler is not None and getattr(signal.getsignal(number), "__module__", "") == __name__:
            signal.signal(number, handler)


def _serve(
    runner: Runner,
    doors: Doors,
    *,
    admin: Admin | None,
    drain: float | None,
    reloader: Reloader | None,
    progress: bool,
) -> None:
    seconds = drain_seconds(drain, os.environ)
    notifier = Notifier(os.environ)
    raise_descriptors()
    stop, hurry = threading.Event(), HurriedEnd()
    why = ""

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal why
        if stop.is_set():
            hurry.end()
        elif number == signal.SIGHUP:
            why = _CLOSED if reloader is not None else _NOT_RELOADED
        stop.set()

    def listen(*numbers: int) -> None:
        for number in numbers:
            signal.signal(number, on_signal)

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        listen(signal.SIGHUP)
        if reloader is not None and not _has_terminal():
            signal.signal(signal.SIGHUP, lambda number, frame: reloader.signal())
    if runner.runtime != "ray":  # a start of Ray can take long: one SIGINT or SIGTERM ends it
        listen(signal.SIGINT, signal.SIGTERM)
    pipeline = runner.open(doors, admin=admin, wait=False, reloader=reloader)
    listen(signal.SIGINT, signal.SIGTERM)  # again: ray.init puts its own handlers in
    if pipeline.notice:
        say(f"polku: {pipeline.notice}")
    pipeline.wait_ready()
    hurry.watch(pipeline)
    if runner.runtime != "ray":
        favour_journal(runner.plan.buffer)
    more = (pipeline.http_address, pipeline.otlp_address, pipeline.otlp_http_address)
    named = zip(("http", "otlp", "otlp http"), more, strict=True)
    others = "".join(f" and {name} {address}" for name, address in named if address)
    tls = "TLS, " if doors.tls is not None else ""
    seen = f", admin on {_as_link(pipeline.admin_address)}" if pipeline.admin_address else ""
    ready = f"ready on grpc {pipeline.address}{others} ({tls}runtime {runner.runtime}){seen}"
    say(f"polku: {ready}")
    notifier.watch(Pulse(loop_thread.loop()).stuck)
    notifier.ready(ready)
    if not doors.insecure and (text := exposure(doors)):
        warn(text)
    tune_process()  # after the line that others wait for
    from polku.runtime.status_line import StatusLine, is_wanted

    prints = any(getattr(outlet.emitter, "writes_to_console", False) for outlet in runner.plan.outlets)
    with StatusLine(shown=progress and is_wanted(prints_events=prints)) as status:
        if _watch(pipeline, stop, status, reloader, notifier):
            say("polku: the input is at its end")
        if is_there := not pipeline.lost:
            if (left := pipeline.leaves_within) is not None:
                say("polku: Ray drains this node")
                seconds = min(seconds, left)
            say(f"polku: draining{why}")
            hurry.begin()
            notifier.stopping(seconds)
            report = _drain(pipeline, seconds, status)
    hurry.claim()
    if not is_there:
        _end_lost(pipeline)
    if lost := say_outcome(report):
        sys.exit(lost)


def _as_link(address: str) -> str:
    """Return an admin address as a browser is given it, and as terminals open it; that of a Unix socket as it is."""
    return address if "://" in address or address.startswith("unix:") else f"http://{address}"


def _has_terminal() -> bool:
    """Return whether this process belongs to a terminal, which sends SIGHUP when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _watch(
    pipeline: Pipeline,
    stop: threading.Event,
    status: StatusLine,
    reloader: Reloader | None = None,
    notifier: Notifier | None = None,
) -> bool:
    """Return when a signal has come, the pipeline or its node goes, or (then true) at its end."""
    from polku.runtime.flow import Flow

    flow = Flow()
    while True:
        if stop.wait(_LOST_SECONDS) or pipeline.lost or pipeline.leaves_within is not None:
            return False
        if _may_end(pipeline) and _has_ended(pipeline):
            return True
        if reloader is not None:
            reloader.serve(pipeline, say, notifier, complain=partial(say, level="warn"))
        if status.is_shown and (tree := _look(pipeline)) is not None:
            status.show(flow.status(tree))


def _may_end(pipeline: Pipeline) -> bool:
    return any(getattr(source.source, "stop_at_end", False) for source in pipeline.plan.sources)


def _has_ended(pipeline: Pipeline) -> bool:
    """Return whether a source that ends the pipeline is at its end, and everything of it is in."""
    tree = _look(pipeline)
    lanes = tree.lanes if tree is not None else ()
    ingests = [lane.ingest for lane in lanes if lane.ingest is not None]
    return any(source.ended for ingest in ingests for source in ingest.sources.values())


def _drain(pipeline: Pipeline, seconds: float, status: StatusLine) -> StopReport:
    """Drain, and say meanwhile what is left: below the lines of a terminal, else in a line now and then."""
    from polku.runtime.flow import Flow

    stopping, flow, said_at = pipeline.stop_nowait(seconds), Flow(), time.monotonic()
    while not wait([stopping], timeout=_DRAIN_LOOK_SECONDS).done:
        if (tree := _look(pipeline)) is None or not (left := flow.left(tree)):
            continue
        if status.is_shown:
            status.show(f"draining: {left}")
        elif time.monotonic() - said_at >= _DRAIN_LINE_SECONDS:
            said_at = time.monotonic()
            say(f"polku: draining: {left}")
    return stopping.result()


def _look(pipeline: Pipeline) -> PipelineStatistics | None:
    """Return the statistics; nothing where they cannot be had soon."""
    try:
        return pipeline.statistics(timeout=_LOOK_SECONDS)
    except Exception:  # a pipeline that ends has parts that are away; nobody but people waits for this
        return None


def _end_lost(pipeline: Pipeline) -> None:
    """End the process of a pipeline that is gone: nothing of it can be stopped, or waited for."""
    report = stop_report(pipeline.plan, {}, complete=False, seconds=0.0, silent=["the pipeline"])
    status = LOST_STATUS if report.loss else 1
    lost = f"; {report.loss}" if report.loss else ""
    say(f"polku: {pipeline.lost}{lost}; exit status {status}", level="error")
    logging.shutdown()
    os._exit(status)  # Ray's own handlers wait for a Ray that is not there


def tune_process() -> None:
    """Look for cycles of objects seldom, and give memory back: in processes that do nothing but serve.

    What exists by now is not looked at again.
    """
    gc.collect()
    gc.freeze()
    collect_cycles_seldom()
    give_back_when_quiet()


def favour_journal(strategy: BufferStrategy) -> None:
    """Let the thread that writes a journal wait half a millisecond for the interpreter, in processes of our own.

    At Python's 5 ms it waited so long after each statement, and a durable pipeline had 0.64 of the rate of one in
    memory instead of 0.77; 0.2 ms gave no more. A buffer in an actor of its own has nothing to wait for.
    """
    if strategy.path:
        sys.setswitchinterval(0.0005)
