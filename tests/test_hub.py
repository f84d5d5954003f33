"""The builder refuses at once what can never work, and says why."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import polku
from polku import (
    AckLevel,
    BufferStrategy,
    Deduplicator,
    Enricher,
    Filter,
    GrpcEmitter,
    Hub,
    JsonIngestor,
    Outcome,
    PlanError,
    RateLimiter,
    Router,
    Sampler,
    Scaling,
    Severity,
    StdoutEmitter,
    Transform,
    WebhookEmitter,
)
from polku.errors import NotRunningError
from polku.scaling import Range
from polku.v1.plugin_pb2 import PluginType


def nothing(batch: object) -> None:
    pass


@dataclass
class Locked:
    """A component that holds what cannot be sent to an actor."""

    lock: Any

    def process(self, events: list[Any]) -> list[Any]:
        return events


def test_the_specification_s_sample_builds() -> None:
    hub = (
        Hub()
        .buffer_strategy(BufferStrategy.tiered(10_000, 5_000))
        .middleware(Filter(lambda event: event.event_type.startswith("user.")))
        .middleware(Transform(lambda event: event.metadata.update(processed="true")))
        .emitter(StdoutEmitter())
        .emitter(GrpcEmitter("http://downstream:50051"))
    )
    raw_sender, event_sender, runner = hub.build()
    plan = runner.plan
    assert [stage.name for stage in plan.stages] == ["stage-1"]
    assert [m.name for m in plan.stages[0].middleware] == ["Filter(lambda)", "Transform(lambda)"]
    assert [outlet.name for outlet in plan.outlets] == ["stdout", "grpc"]
    assert (plan.buffer.capacity, plan.ack) == (15_000, AckLevel.ACCEPTED)
    with pytest.raises(NotRunningError, match=r"runner\.start\(\)"):
        event_sender.send(polku.Event())
    with pytest.raises(NotRunningError):
        raw_sender.send(b"", source="json")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Hub().plan("inline"), ["no emitter", "StdoutEmitter"]),
        (lambda: Hub().emitter(StdoutEmitter()).emitter(StdoutEmitter()), ["'stdout'", "name="]),
        (lambda: Hub().middleware(Router().default("nowhere")).emitter(nothing).plan("inline"), ["nowhere", "nothing"]),
        (lambda: Hub().middleware(42), ["42", "middleware"]),
        (lambda: Hub().middleware(Filter), ["Filter", "object"]),
        (lambda: Hub().emitter("stdout"), ["'stdout'", "emitter"]),
        (lambda: Hub().ingestor(JsonIngestor(), source="a").ingestor(JsonIngestor(), source="a"), ["'a'", "already"]),
        (lambda: Hub().ingestor(lambda data: []), ["source"]),
        (lambda: Hub().buffer_strategy(10_000), ["10000", "BufferStrategy"]),  # type: ignore[arg-type]
        (lambda: Hub().ack("maybe"), ["maybe", "accepted", "delivered"]),
        (lambda: Hub(runtime="java"), ["java", "inline"]),
        (lambda: Hub().emitter(nothing, overflow="explode"), ["explode", "drop_oldest"]),
        (lambda: RateLimiter(-1), ["rate", "-1"]),
        (lambda: Sampler(1.5), ["rate", "1.5"]),
        (lambda: Filter("user."), ["predicate", "user."]),  # type: ignore[call-overload]
        (lambda: Enricher({"a": 1}), ["look_up"]),  # type: ignore[dict-item]
        (lambda: BufferStrategy.ring(0), ["capacity", "0"]),
        (lambda: BufferStrategy.ring(10, overflow="spill"), ["spill", "block"]),
        (lambda: GrpcEmitter("ftp://host:1"), ["ftp://host:1", "http://"]),
        (lambda: GrpcEmitter("host"), ["host", "port"]),
        (lambda: WebhookEmitter("host/path"), ["host/path", "http://"]),
        (lambda: StdoutEmitter("xml"), ["xml", "json"]),
        (lambda: polku.Limits(message_bytes=0), ["message_bytes", "0"]),
    ],
)
def test_a_wrong_plan_is_refused_with_what_and_how(build: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        build()
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be_pickled_is_named_with_its_field() -> None:
    hub = Hub().middleware(Locked(threading.Lock())).emitter(nothing)
    with pytest.raises(PlanError, match=r"middleware Locked.*lock=.*cannot pickle") as caught:
        hub.build(runtime="ray")
    assert "inline" in str(caught.value)
    hub.build(runtime="inline")


def test_neighbours_share_a_stage_unless_they_must_not() -> None:
    hub = Hub().middleware(RateLimiter(5)).middleware(Sampler(0.5)).middleware(nothing, num_cpus=1)
    plan = hub.middleware(nothing, isolate=True).middleware(nothing).emitter(nothing).plan("inline")
    assert [len(stage.middleware) for stage in plan.stages] == [2, 1, 1, 1]


def test_everything_public_is_listed_and_there() -> None:
    assert sorted(set(polku.__all__)) == sorted(polku.__all__)
    for name in polku.__all__:
        assert getattr(polku, name) is not None


def test_one_lane_a_node_is_a_number_that_the_cluster_knows() -> None:
    plan = Hub().lanes("per-node").middleware(Deduplicator()).emitter(StdoutEmitter()).plan("ray")
    assert plan.per_node
    assert plan.stages[0].shared
    inline = Hub(runtime="inline").lanes("per-node").middleware(Deduplicator()).emitter(StdoutEmitter()).plan()
    assert not inline.per_node
    assert not inline.stages[0].shared
    with pytest.raises(PlanError, match="lanes='per_node' must be a whole number from 1 to 1000, or 'per-node'"):
        Hub().lanes("per_node")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="plugins register with one lane"):
        Hub().lanes("per-node").allow_plugins("secret-token").emitter(StdoutEmitter()).plan("ray")


@pytest.mark.parametrize("lanes", [0, -1, 1.5, True, 1001])
def test_lanes_and_replicas_that_cannot_be_are_refused(lanes: Any) -> None:
    with pytest.raises(PlanError, match=f"lanes={lanes!r} must be a whole number from 1 to 1000"):
        Hub().lanes(lanes)
    with pytest.raises(PlanError, match=f"replicas={lanes!r} must be a whole number from 1 to 1000"):
        Hub().middleware(lambda event: None, replicas=lanes)


def test_lanes_and_replicas_by_need_begin_with_the_fewest() -> None:
    hub = Hub().lanes(min=2, max=8).middleware(lambda event: None, replicas=(3, 4)).emitter(StdoutEmitter())
    plan = hub.scaling(Scaling(busy=0.9)).plan("ray")
    assert (plan.lanes, plan.lane_range, plan.scaling) == (2, Range(2, 8), Scaling(busy=0.9))
    assert (plan.stages[0].replicas, plan.stages[0].replica_range) == (3, Range(3, 4))
    assert plan.batches_under_way == 8
    assert plan.side_by_side
    assert Hub().lanes(max=3).emitter(StdoutEmitter()).plan("ray").lane_range == Range(1, 3)
    assert Hub().lanes(min=2, max=2).emitter(StdoutEmitter()).plan("ray").lane_range is None
    assert Hub().lanes(min=2, max=4).lanes(1).emitter(StdoutEmitter()).plan("ray").lane_range is None


def test_lanes_that_are_spread_keep_nothing_on_the_disks_of_their_nodes(tmp_path: Path) -> None:
    hub = Hub().lanes(min=2, max=2, spread=True).emitter(StdoutEmitter())
    plan = hub.plan("ray")
    assert (plan.lane_range, plan.spread, plan.over_nodes) == (Range(2, 2), True, True)
    assert not hub.plan("inline").spread
    for stays in (
        hub.buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db")),
        hub.buffer_strategy(BufferStrategy.ring(10)).dead_letters(tmp_path / "letters.db"),
    ):
        with pytest.raises(PlanError, match=r"lanes\(spread=True\) have lanes on any node, and would leave the "):
            stays.plan("ray")
    assert not Hub().lanes(min=2, max=2, spread=True).lanes(2).emitter(StdoutEmitter()).plan("ray").spread


def test_the_inline_runtime_has_one_of_each_whatever_is_needed() -> None:
    hub = Hub().lanes(min=2, max=8).middleware(lambda event: None, replicas=(3, 4)).emitter(StdoutEmitter())
    plan = hub.plan("inline")
    assert (plan.lanes, plan.lane_range) == (1, None)
    assert (plan.stages[0].replicas, plan.stages[0].replica_range, plan.stages[0].apart) == (1, None, False)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (lambda hub: hub.lanes(), "lanes=None must be a whole number from 1 to 1000, or 'per-node', or min and max"),
        (lambda hub: hub.lanes(2, max=4), "lanes=2 leaves no room for min and max; leave it out"),
        (lambda hub: hub.lanes("per-node", min=1), "lanes='per-node' leaves no room"),
        (lambda hub: hub.lanes(min=2), "lanes(max=None): must be a whole number from 1 to 1000"),
        (lambda hub: hub.lanes(min=4, max=2), "lanes(max=2): must be at least min=4"),
        (lambda hub: hub.lanes(4, spread=True), "spread=True needs min and max: lanes(min=1, max=8, spread=True)"),
        (lambda hub: hub.lanes("per-node", spread=True), "spread=True needs min and max"),
        (lambda hub: hub.scaling({"busy": 0.5}), "is no Scaling; use Scaling("),
        (lambda hub: hub.middleware(Deduplicator(), replicas=(1, 2)), "so replicas=(1, 2) would each see a part"),
        (lambda hub: hub.middleware(Filter(bool), replicas=(2, 1)), "replicas(max=1): must be at least min=2"),
        (lambda hub: hub.middleware(Filter(bool), labels={"zone": 1}), "labels={'zone': 1} must name labels of nodes"),
        (lambda hub: hub.middleware(Filter(bool), labels="zone"), "labels='zone' must name labels of nodes"),
    ],
)
def test_nonsense_about_need_is_refused_by_name(choice: Callable[[Hub], Hub], text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(text)):
        choice(Hub())


def test_plugins_that_register_and_lanes_by_need_are_refused_together() -> None:
    with pytest.raises(PlanError, match="plugins register with one lane"):
        Hub().lanes(max=2).allow_plugins("secret-token").emitter(StdoutEmitter()).plan("ray")


def test_replicas_of_what_remembers_events_are_refused() -> None:
    with pytest.raises(PlanError, match="Deduplicator remembers events by id, so replicas=2"):
        Hub().middleware(Deduplicator(), replicas=2)


def test_plugins_that_register_and_lanes_are_refused_together() -> None:
    hub = Hub().lanes(2).allow_plugins("secret-token").emitter(StdoutEmitter())
    with pytest.raises(PlanError, match="plugins register with one lane"):
        hub.plan("ray")
    assert hub.plan("inline").lanes == 1


@pytest.mark.parametrize("enum", [Severity, Outcome, PluginType])
def test_code_that_names_an_enum_can_be_sent_to_an_actor(enum: object) -> None:
    assert pickle.loads(pickle.dumps(enum)) is enum
