"""Callers that are cancelled while they wait for a pipeline, and calls on one that has ended."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import pickle
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polku import Batch, Hub, Pipeline, new_event
from polku.errors import NotRunningError, PipelineError
from tests.support.recorder import Recorder


class Gate:
    """An emitter that takes a batch only once it is opened."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.opened = threading.Event()
        self.entered = threading.Event()

    async def emit(self, batch: Batch) -> None:
        self.entered.set()
        await asyncio.to_thread(self.opened.wait, 30)
        self.ids += [event.id for event in batch]


def held() -> tuple[Pipeline, Gate]:
    """Return a pipeline that holds one event, and what holds it up."""
    gate = Gate()
    pipeline = Hub(runtime="inline").emitter(gate, name="gate").start()
    assert pipeline.sender().send(new_event("x", id="held"), timeout=30).ok
    assert gate.entered.wait(30)
    return pipeline, gate


async def within(pipeline: Pipeline) -> None:
    async with asyncio.timeout(0.1):
        await pipeline.stop_async()


async def at_the_end_of_a_block(pipeline: Pipeline) -> None:
    async def block() -> None:
        async with pipeline:
            pass

    async with asyncio.timeout(0.1):
        await block()


async def by_its_future(pipeline: Pipeline) -> None:
    stopping = pipeline.stop_nowait()
    assert not stopping.cancel()
    async with asyncio.timeout(0.1):
        await asyncio.wrap_future(stopping)


@pytest.mark.parametrize("stop", [within, at_the_end_of_a_block, by_its_future])
def test_a_stop_that_nobody_waits_for_any_more_drains_all_the_same(stop: Callable[[Pipeline], object]) -> None:
    pipeline, gate = held()
    with pytest.raises(TimeoutError):
        asyncio.run(stop(pipeline))  # type: ignore[arg-type]
    gate.opened.set()
    report = pipeline.stop()
    assert (report.complete, report.emitters["gate"].delivered, report.lost) == (True, 1, {})
    assert gate.ids == ["held"]


class Slow:
    """An emitter whose start takes until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.entered = threading.Event()
        self.closed = threading.Event()

    async def start(self) -> None:
        self.entered.set()
        await asyncio.to_thread(self.released.wait, 30)

    def emit(self, batch: Batch) -> None:
        pass

    async def close(self) -> None:
        self.closed.set()


def test_who_asks_during_the_start_and_is_cancelled_leaves_it_alone() -> None:
    slow = Slow()

    async def ask() -> Pipeline:
        pipeline = Hub(runtime="inline").emitter(slow).start()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pipeline.statistics_async()
        return pipeline

    pipeline = asyncio.run(ask())
    slow.released.set()
    assert pipeline.sender().send(new_event("x"), timeout=30).ok
    assert pipeline.stop().complete


def test_a_block_that_is_cancelled_at_its_start_ends_the_pipeline() -> None:
    slow = Slow()
    started: list[Pipeline] = []

    async def block() -> None:
        started.append(Hub(runtime="inline").emitter(slow).start())
        async with started[0]:
            pass

    async def cancelled() -> None:
        async with asyncio.timeout(0.1):
            await block()

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert slow.closed.wait(30)
    with pytest.raises(NotRunningError, match="cancelled before it was done; start the pipeline again"):
        started[0].sender()


def test_a_start_that_fails_unseen_in_an_event_loop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def start(address: str) -> None:
        Hub(runtime="inline", name="deaf").emitter(print).start(grpc_addr=address)

    with socket.socket() as taken, caplog.at_level(logging.ERROR, "polku"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(start(f"127.0.0.1:{taken.getsockname()[1]}"))
        limit = time.monotonic() + 30
        while "pipeline deaf did not start: grpc_addr=" not in caplog.text:
            assert time.monotonic() < limit
            time.sleep(0.01)


def other() -> Hub:
    return Hub(runtime="inline").emitter(print, name="other")


AFTER: dict[str, Callable[[Pipeline], object]] = {
    "sender": lambda pipeline: pipeline.sender(),
    "with": lambda pipeline: pipeline.__enter__(),
    "async with": lambda pipeline: pipeline.__aenter__(),
    "update": lambda pipeline: pipeline.update(other()),
    "update_plan": lambda pipeline: pipeline.update_plan(other().plan()),
    "scale": lambda pipeline: pipeline.scale(2),
}


@pytest.mark.parametrize("call", AFTER)
def test_after_its_end_a_pipeline_says_so(call: str, tmp_path: Path) -> None:
    pipeline = Hub(runtime="inline").emitter(Recorder(tmp_path / "out")).start()
    sender = pipeline.sender()
    report = pipeline.stop()

    async def awaited() -> object:
        result = AFTER[call](pipeline)
        return await result if inspect.isawaitable(result) else result

    stopped = "the pipeline has stopped; start another one"
    with pytest.raises(NotRunningError, match=stopped):
        asyncio.run(awaited())
    with pytest.raises(NotRunningError, match=stopped):
        sender.send(new_event("x"), timeout=30)
    assert pipeline.report_nowait().result(30) is report is pipeline.stop()
    assert not pipeline.health().ready
    assert pipeline.dead_letters() == []


def test_a_runner_has_one_pipeline_at_a_time() -> None:
    runner = Hub(runtime="inline").emitter(print).build().runner
    with runner.start() as first:
        with pytest.raises(PipelineError, match="this runner's pipeline has not been stopped; stop it first"):
            runner.start()
        assert runner.pipeline is first
    with runner.start() as second:
        assert runner.pipeline is second is not first


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_pipeline_cannot_be_copied_and_says_what_can(copied: Callable[[object], object]) -> None:
    built = Hub(runtime="inline").emitter(print).build()
    with built.runner.start() as pipeline:
        for one in (pipeline, built.runner, built.event_sender):
            with pytest.raises(TypeError, match=r"give tasks and actors pipeline\.sender\(\), of the ray runtime"):
                copied(one)
