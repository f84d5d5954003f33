"""The lane of a node that Ray drains, without Ray: it is emptied before the node goes, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polku import BufferStrategy, Hub
from polku.actors import node_drain, node_watcher, runtime
from polku.actors.handles import LaneHandles
from polku.actors.node_drain import seconds_left
from polku.actors.node_watcher import NodeWatcher
from polku.actors.nodes import Node
from polku.actors.runtime import RayRuntime
from polku.actors.startup import introduce_all, open_doors
from polku.errors import UnavailableError
from polku.gateway.addresses import Doors
from polku.runtime import serving
from polku.runtime.status_line import StatusLine
from tests.actors.under_load import ARRIVED, HELD, Out, Running, check, running, until

HERE, THERE = Node("127.0.0.1", "one"), Node("127.0.0.2", "one")


class Nodes:
    """The nodes of a cluster, as Ray would tell of them."""

    def __init__(self) -> None:
        self.alive = [HERE, THERE]
        self.deadlines: dict[str, float] = {}

    def draining(self) -> dict[str, float]:
        return dict(self.deadlines)

    def workers(self) -> list[Node]:
        return [node for node in self.alive if node.address not in self.deadlines]

    def living(self) -> frozenset[str]:
        return frozenset(node.address for node in self.alive)


@contextlib.asynccontextmanager
async def watched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Running, NodeWatcher, Nodes]]:
    nodes = Nodes()
    for name in ("draining", "workers", "living"):
        monkeypatch.setattr(node_watcher, name, getattr(nodes, name))
    monkeypatch.setattr(node_watcher, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(node_watcher, "_PAUSE_SECONDS", 0.01)
    async with running(hub, monkeypatch) as pipeline:
        factory = pipeline.factory
        for lane, place in factory.lanes:  # each lane on a node of its own
            node = (HERE, THERE)[lane.number - 1]
            factory.exchange(lane._replace(address=node.address), place._replace(node=node))
        watcher = NodeWatcher(factory.layout.plan, factory, HERE, None, Doors(), lambda lane: None)
        try:
            yield pipeline, watcher, nodes
        finally:
            await watcher.stop()


def hub(buffer: BufferStrategy | None = None, *, chained: bool = False) -> Hub:
    made = Hub(runtime="ray").lanes(2).emitter(Out("out"), name="out")
    made = made.chain() if chained else made
    return made if buffer is None else made.buffer_strategy(buffer)


async def gone(pipeline: Running) -> LaneHandles:
    """Return the lane that is left, once the other one is no part any more."""
    async with asyncio.timeout(30):
        await until(lambda: len(pipeline.factory.parts().lanes) == 1)
    return pipeline.lane


async def refused(lane: LaneHandles) -> None:
    """Send to a lane that has been asked to leave until it takes nothing new; raises what it says then."""
    async with asyncio.timeout(30):
        while True:
            await lane.ingest.submit.remote(b"")
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("chained", [False, True])
async def test_the_lane_of_a_node_that_is_drained_delivers_what_it_has_and_is_gone(
    chained: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with watched(hub(chained=chained), monkeypatch) as (pipeline, watcher, nodes):
        HELD.add("out")
        assert (await pipeline.send("1-1", "1-2", lane=1)).event_ids == ["1-1", "1-2"]
        leaving = pipeline.factory.parts().lanes[1]
        nodes.deadlines[THERE.address] = time.time() + 60
        async with asyncio.timeout(30):
            await until(lambda: "leaves node 127.0.0.2" in caplog.text)
        with pytest.raises(UnavailableError, match="another lane"):  # by which senders turn to that
            await refused(leaving)
        assert len(pipeline.factory.parts().lanes) == 2
        HELD.clear()
        left = await gone(pipeline)
        assert left.address == HERE.address
        assert watcher.lost == []
        assert pipeline.changes.gone["out"].delivered == 2  # which the report of a stop adds to the others
        assert (await pipeline.send("0-1")).event_ids == ["0-1"]
        await pipeline.delivered()
        check(["0-1", "1-1", "1-2"], ARRIVED["out"])
    assert "everything is delivered" in caplog.text


async def test_what_cannot_be_delivered_in_time_stays_in_the_journal_and_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    journal = BufferStrategy.durable(tmp_path / "journal.db")
    async with watched(hub(journal), monkeypatch) as (pipeline, watcher, nodes):
        HELD.add("out")
        assert (await pipeline.send("1-1", "1-2", lane=1)).event_ids == ["1-1", "1-2"]
        nodes.deadlines[THERE.address] = time.time()
        await gone(pipeline)
        assert watcher.lost == []
        assert "journal.db.lane-2 on that node (2 for out)" in caplog.text
        HELD.clear()
        nodes.deadlines.clear()  # another life of the node
        async with asyncio.timeout(30):
            await until(lambda: len(ARRIVED.get("out", ())) == 2)
        check(["1-1", "1-2"], ARRIVED["out"])


async def test_what_a_buffer_in_memory_could_not_deliver_in_time_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(hub(), monkeypatch) as (pipeline, watcher, nodes):
        HELD.add("out")
        lost = pipeline.factory.parts().lanes[1].door
        await pipeline.send("1-1", "1-2", lane=1)
        nodes.deadlines[THERE.address] = time.time()
        await gone(pipeline)
        assert watcher.lost == [lost]
        assert "acknowledged events are lost: 2 of emitter out" in caplog.text


async def test_what_is_left_for_an_emitter_of_best_effort_is_no_loss_and_is_said_to_be_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = Hub(runtime="ray").lanes(2).emitter(Out("out"), name="out", required=False)
    async with watched(made, monkeypatch) as (pipeline, watcher, nodes):
        HELD.add("out")
        await pipeline.send("1-1", "1-2", lane=1)
        nodes.deadlines[THERE.address] = time.time()
        await gone(pipeline)
        assert watcher.lost == []
        assert "the events that it still held are lost; none of them was promised to anybody (2 for out)" in caplog.text


async def test_nodes_that_go_together_are_emptied_side_by_side_also_the_own_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(hub(), monkeypatch) as (pipeline, _, nodes):
        HELD.add("out")
        for lane in (0, 1):
            await pipeline.send(f"{lane}-1", lane=lane)
        nodes.deadlines |= {node.address: time.time() + 60 for node in (HERE, THERE)}
        async with asyncio.timeout(30):
            await until(lambda: "127.0.0.1, on which the pipeline was started" in caplog.text)
            HELD.clear()
            await until(lambda: not pipeline.factory.parts().lanes)
        check(["0-1", "1-1"], ARRIVED["out"])


def test_a_drain_ends_before_the_deadline_and_without_one_it_takes_what_any_drain_may() -> None:
    assert seconds_left(1_060.0, 1_000.0, {}) == 60 - node_drain._MARGIN_SECONDS
    assert seconds_left(1_001.0, 1_000.0, {}) == 0
    assert seconds_left(math.inf, 1_000.0, {}) == 30
    assert seconds_left(math.inf, 1_000.0, {"POLKU_DRAIN_SECONDS": "90"}) == 90


async def test_a_lane_that_joins_may_have_its_ports_open_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor opens the ports of every lane that it learns of, also of one that is still being started."""
    async with running(Hub(runtime="ray").emitter(Out("out")), monkeypatch) as pipeline:
        lane, place = pipeline.factory.lanes[0]
        doors = Doors(grpc_addr="127.0.0.1:0", shared=True)
        opened = await lane.ingest.introduce.remote(None, doors)
        again, _ = await open_doors(lane, place, dataclasses.replace(doors, grpc_addr=opened.grpc))
        assert again == opened


async def test_the_node_of_the_program_itself_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: dict[str, float] = {THERE.address: math.inf}
    monkeypatch.setattr(runtime, "draining", lambda: deadlines)
    monkeypatch.setattr(runtime, "attach", lambda: None)
    program = RayRuntime(hub().plan("ray"), Doors())
    program._here = HERE
    found = []
    for deadline in (None, time.time() + 60):
        if deadline is not None:
            deadlines[HERE.address] = deadline
        await program._look_at_node()
        found.append(program.leaves_within)
    assert found[0] is None
    assert 30 < (found[1] or 0) < 60
    pipeline: Any = program
    assert not serving._watch(pipeline, threading.Event(), StatusLine(shown=False))  # it returns, without a signal


async def test_a_lane_that_is_lost_while_the_pipeline_starts_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(hub(), monkeypatch) as pipeline:
        lost, other = pipeline.factory.parts().lanes
        lost.ingest.kill(restart=False)
        await introduce_all([lost, other], None, Doors())
        assert "lane-1/ingest on node 127.0.0.1 was lost while the pipeline started" in caplog.text
        assert (await pipeline.send("1-1", lane=1)).event_ids == ["1-1"]
        pipeline.factory.drop(lost)
