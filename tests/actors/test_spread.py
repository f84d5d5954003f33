"""Lanes by need that are spread over nodes, without Ray: where they come, and what becomes of them with their nodes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from polku import Hub
from polku.actors import lanes, node_watcher
from polku.actors.handles import LaneHandles
from polku.actors.lanes import lost
from polku.actors.node_watcher import NodeWatcher
from polku.actors.nodes import LanePlace, Node
from polku.actors.ports import check_shared, check_wildcards
from polku.errors import ChangeError, PlanError
from polku.gateway.addresses import Doors
from tests.actors.under_load import ARRIVED, HELD, Flood, Out, Running, check, running, until

HERE, TWO, THREE = Node("127.0.0.1", "one"), Node("127.0.0.2", "one"), Node("127.0.0.3", "one")


class Nodes:
    """The nodes of a cluster, as Ray would tell of them."""

    def __init__(self) -> None:
        self.alive = [HERE, TWO, THREE]
        self.deadlines: dict[str, float] = {}

    def draining(self) -> dict[str, float]:
        return dict(self.deadlines)

    def workers(self) -> list[Node]:
        return [node for node in self.alive if node.address not in self.deadlines]

    def living(self) -> frozenset[str]:
        return frozenset(node.address for node in self.alive)


def hub() -> Hub:
    return Hub(runtime="ray").lanes(min=2, max=4, spread=True).emitter(Out("out"), name="out")


@contextlib.asynccontextmanager
async def spread_over(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Running, NodeWatcher, Nodes]]:
    nodes = Nodes()
    for name in ("draining", "workers", "living"):
        monkeypatch.setattr(node_watcher, name, getattr(nodes, name))
    monkeypatch.setattr(lanes, "workers", nodes.workers)
    monkeypatch.setattr(lanes, "this_node", lambda: HERE)
    monkeypatch.setattr(node_watcher, "_LOOK_SECONDS", 0.001)
    async with running(hub(), monkeypatch) as pipeline:
        factory = pipeline.factory
        for lane, place in factory.lanes:
            node = (HERE, TWO)[lane.number - 1]
            factory.exchange(lane._replace(address=node.address), place._replace(node=node))
        watcher = NodeWatcher(factory.layout.plan, factory, HERE, None, Doors(), lambda lane: None)
        try:
            yield pipeline, watcher, nodes
        finally:
            await watcher.stop()


def where(pipeline: Running) -> list[str]:
    """Return the addresses of the nodes of lanes that take events, in the order in which these came."""
    return [lane.address for lane in pipeline.factory.parts().taking]


async def test_a_lane_that_comes_goes_where_there_are_the_fewest_and_the_last_ones_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with spread_over(monkeypatch) as (pipeline, _, nodes):
        flood = Flood(pipeline, lanes=2)
        await pipeline.changes.update(pipeline.changes.plan.with_lanes(4), 5.0)
        assert where(pipeline) == [HERE.address, TWO.address, THREE.address, HERE.address]
        await flood.go_on()
        await pipeline.changes.update(pipeline.changes.plan.with_lanes(2), 5.0)
        assert where(pipeline) == [HERE.address, TWO.address]
        nodes.alive.remove(THREE)
        await pipeline.changes.update(pipeline.changes.plan.with_lanes(3), 5.0)
        assert where(pipeline) == [HERE.address, TWO.address, HERE.address]
        check(await flood.end(), ARRIVED["out"])


async def test_a_lane_that_is_lost_with_its_node_is_counted_and_another_one_comes_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with spread_over(monkeypatch) as (pipeline, watcher, nodes):
        flood = Flood(pipeline)
        assert pipeline.changes.lost == 0
        door = pipeline.factory.parts().lanes[1].door
        nodes.alive.remove(TWO)
        async with asyncio.timeout(30):
            await until(lambda: pipeline.changes.lost == 1)
        assert watcher.lost == [door]
        await pipeline.changes.restore()
        assert where(pipeline) == [HERE.address, THREE.address]
        assert pipeline.changes.lost == 0
        assert (await pipeline.send("x-1", lane=1)).event_ids == ["x-1"]
        check(await flood.end() | {"x-1"}, ARRIVED["out"])


async def test_another_lane_comes_before_the_one_of_a_node_that_ray_drains_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with spread_over(monkeypatch) as (pipeline, watcher, nodes):
        HELD.add("out")
        assert (await pipeline.send("1-1", "1-2", lane=1)).event_ids == ["1-1", "1-2"]
        nodes.deadlines[TWO.address] = time.time() + 60
        async with asyncio.timeout(30):
            await until(lambda: pipeline.changes.lost == 1)
        await pipeline.changes.restore()
        assert where(pipeline) == [HERE.address, THREE.address]
        assert len(pipeline.factory.parts().lanes) == 3  # the one that leaves still delivers
        assert (await pipeline.send("2-1", lane=2)).event_ids == ["2-1"]
        HELD.clear()
        async with asyncio.timeout(30):
            await until(lambda: len(pipeline.factory.parts().lanes) == 2)
        await pipeline.delivered()
        assert watcher.lost == []
        check(["1-1", "1-2", "2-1"], ARRIVED["out"])


async def test_where_no_node_is_left_nothing_comes_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with spread_over(monkeypatch) as (pipeline, _, nodes):
        nodes.alive[:] = [HERE]  # the program's own, which is drained
        nodes.deadlines[HERE.address] = time.time() + 60
        async with asyncio.timeout(30):
            await until(lambda: pipeline.changes.lost)
        with pytest.raises(ChangeError, match="no node of the cluster has CPUs, or all are leaving"):
            await pipeline.changes.restore()


def test_the_numbers_of_lanes_that_leave_are_free() -> None:
    def lane(number: int, place: int, *, leaving: bool = False) -> tuple[LaneHandles, LanePlace]:
        handles: Any = (None, {}, None, {}, "", False, "", leaving)
        return LaneHandles(f"lane-{number}/", number, *handles), LanePlace(TWO, place)

    assert lost([lane(1, 1), lane(2, 2, leaving=True), lane(5, 3)], 4) == [2, 4]
    assert lost([lane(1, 1), lane(2, 2, leaving=True), lane(3, 2)], 2) == []


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "10.0.0.9:0", "unix:/gateway", "[::1]:50051", "name:50051"])
def test_an_address_that_only_one_node_has_is_refused(address: str) -> None:
    plan = hub().plan("ray")
    with pytest.raises(PlanError, match=r"is of one node, and lanes\(spread=True\) may be on any; use 0\.0\.0\.0:"):
        check_wildcards(plan, Doors("0.0.0.0:50051", address))
    with pytest.raises(ChangeError, match="may be on any"):
        check_shared(Doors(address), plan, plan)
    check_wildcards(plan, Doors("0.0.0.0:50051", "[::]:0"))
    check_wildcards(Hub().lanes(max=2).emitter(Out("out")).plan("ray"), Doors(address))
