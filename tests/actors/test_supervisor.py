"""The supervisor's look at its parts, without Ray: each part answers when the test lets it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from ray.exceptions import ActorUnavailableError

from polku import Hub, StdoutEmitter
from polku.actors import supervisor
from polku.actors.handles import ActorHandles, LaneHandles
from polku.actors.observation import Observation
from polku.actors.shell import Vitals
from polku.actors.supervisor import SupervisorShell
from polku.actors.surroundings import Surroundings
from polku.batch.receipt import Receipt
from polku.buffer.statistics import BufferStatistics
from polku.emit.delivery import DeliveryStatistics
from polku.gateway.addresses import Doors
from polku.gateway.intake_statistics import IntakeStatistics
from polku.monitoring.collector import facts_of


class Method:
    """A method of an actor."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class Part:
    """An actor that may be silent."""

    def __init__(self, statistics: Any) -> None:
        self.counted = statistics
        self.free = asyncio.Event()
        self.free.set()
        self.looks = 0
        self.error: Exception | None = None
        self.pid, self.epoch = os.getpid(), 7
        self.vitals = Method(self._vitals)
        self.statistics = Method(self._statistics)
        self.introduce = Method(self._introduce)

    async def _vitals(self) -> Vitals:
        self.looks += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return Vitals(self.pid, self.epoch, 0.0, 1)

    async def _statistics(self) -> Any:
        return self.counted

    async def _introduce(self, *arguments: object) -> None: ...


class Quiet(Surroundings):
    """Surroundings that leave this process as it is."""

    def settle(self) -> None: ...


def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[SupervisorShell, Part, Part]:
    """Return the supervisor of a pipeline, its ingest and its emitter."""
    monkeypatch.setattr(supervisor, "_this_actor", lambda: None)
    monkeypatch.setattr(supervisor, "this_node", lambda: "")
    monkeypatch.setattr(supervisor, "_GLANCE_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "_INTERVAL", 0.02)
    ingest = Part(IntakeStatistics(0, 0, 0, 0, 0, Receipt()))
    buffer, emitter = Part(BufferStatistics(0, 0, 10, 0, 0, 0, 0, {})), Part(DeliveryStatistics(0, 0, 0, 0, None))
    lane = LaneHandles("", 1, ingest, {}, buffer, {"stdout": emitter}, "", True, "")
    plan = Hub(runtime="inline").emitter(StdoutEmitter()).plan()
    monkeypatch.setattr(supervisor, "unpack", lambda packed: packed)
    packed: Any = (ActorHandles((lane,), {}), Doors(), 30.0, True, facts_of(plan, "ray", time.time()))
    shell = SupervisorShell(packed, Quiet())
    return shell, ingest, emitter


async def test_of_a_process_that_has_ended_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    shell, _, emitter = watched(monkeypatch)
    emitter.error = ActorUnavailableError("the connection is lost", b"0" * 16)
    health = await shell.health()
    text = "does not answer: it has ended or is out of reach (ActorUnavailableError)"
    assert health.components["emitter:stdout"] == (False, text)
    await shell._tasks.close()


async def test_a_process_that_ends_is_in_health_and_in_the_log_before_the_next_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shell, _, emitter = watched(monkeypatch)
    monkeypatch.setattr(supervisor, "_INTERVAL", 3_600.0)
    process = await asyncio.create_subprocess_exec("sleep", "3600")
    emitter.pid = process.pid
    assert (await shell.health()).healthy
    with caplog.at_level(logging.WARNING):
        process.kill()
        async with asyncio.timeout(30):
            while not caplog.messages:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await process.wait()
    (line,) = caplog.messages
    assert line.startswith(f"emitter:stdout is unhealthy: does not answer: its process {process.pid} has ended. ")
    assert "an event that ends it each time becomes a dead letter (POISON)" in line
    assert not (await shell.health()).healthy
    assert (await shell.statistics()).processes["emitter:stdout"].answers is False
    await shell._look()  # what it has answered before does not make it well
    assert not (await shell.health()).healthy
    emitter.pid, emitter.epoch = 1, 8
    await shell._look()
    assert (await shell.health()).healthy
    assert (await shell.statistics()).processes["emitter:stdout"].restarts == 1
    await shell._tasks.close()


async def test_a_silent_part_does_not_slow_the_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shell, ingest, emitter = watched(monkeypatch)
    assert (await shell.health()).healthy
    emitter.free.clear()
    await shell.statistics()
    before, asked = ingest.looks, emitter.looks
    for number in range(1, 6):
        ingest.counted = replace(ingest.counted, received=number)
        began = time.monotonic()
        while (seen := (await shell.statistics()).lanes[0].ingest) is None or seen.received < number:
            assert time.monotonic() - began < 30
            await asyncio.sleep(0.01)
    assert ingest.looks >= before + 5
    assert emitter.looks <= asked + 1  # it is asked once, and not again before it answers
    emitter.free.set()
    emitter.counted = DeliveryStatistics(3, 0, 1, 0, None)
    async with asyncio.timeout(30):
        while (await shell.statistics()).lanes[0].emitters["stdout"].confirmed < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await shell._tasks.close()


async def test_a_lane_that_comes_while_another_is_looked_for_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    shell, _, _ = watched(monkeypatch)
    told: list[tuple[frozenset[int], frozenset[int]]] = []

    async def serve(*numbers: Any) -> bool:
        told.append(numbers)
        return False

    shared = Part(None)
    shared.serve = Method(serve)  # type: ignore[attr-defined]
    (first,) = shell._parts.lanes
    second = first._replace(name="lane-2/", number=2)
    shell._parts = shell._parts._replace(shared={"together": shared})
    shell._seen[first.door] = Observation(None, None, "does not answer", ended=True)
    loop = asyncio.get_running_loop()

    def living() -> frozenset[str]:
        loop.call_soon_threadsafe(lambda: setattr(shell, "_parts", shell._parts._replace(lanes=(first, second))))
        time.sleep(0.05)
        return frozenset()

    monkeypatch.setattr(supervisor, "living", living)
    await shell._tell_shared()
    assert told == [(frozenset({2}), frozenset())]
