"""What statistics say about the need for lanes and replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from polku.monitoring.stage_statistics import StageStatistics
from polku.monitoring.statistics import CollectionStatistics, LaneStatistics, PartHealth, PipelineStatistics
from polku.scaling import Range, Scaling
from polku.scaling.observing import Observer
from tests.monitoring.trees import some_tree

RULES = Scaling()


def tree(*changes: Mapping[str, Any], lanes: int = 2, **options: Any) -> PipelineStatistics:
    """Return a tree in which each lane has something `changes` says: an age at its outlets, or its ingest, a share."""
    made = some_tree(lanes=lanes, emitters=["out"], **options)
    pairs = [(lane, changes[number] if number < len(changes) else {}) for number, lane in enumerate(made.lanes)]
    return replace(made, lanes=tuple(_lane(lane, **change) for lane, change in pairs))


def _lane(
    lane: LaneStatistics,
    *,
    outlet: float = 0.0,
    ingest: float = 0.0,
    share: float = 0.0,
    replicas: tuple[float, ...] = (),
    held: int = 0,
    collects: float | None = None,
    required: bool = True,
) -> LaneStatistics:
    assert lane.buffer is not None
    assert lane.ingest is not None
    assert lane.ingest.link is not None
    outlets = {
        name: replace(each, oldest_age_seconds=outlet, required=required) for name, each in lane.buffer.outlets.items()
    }
    stage: StageStatistics = replace(lane.stages["stage-1"], utilization=share, held=held)
    stages = {"stage-1": stage}
    stages |= {f"stage-2/replica-{n}": replace(stage, utilization=own) for n, own in enumerate(replicas, 1)}
    emitters = lane.emitters
    if collects is not None:
        collection = CollectionStatistics(groups=1, events=1, bytes=1, early=0, max_age_seconds=collects)
        emitters = {name: replace(each, collection=collection) for name, each in emitters.items()}
    link = replace(lane.ingest.link, oldest_age_seconds=ingest)
    return replace(
        lane,
        ingest=replace(lane.ingest, link=link),
        stages=stages,
        buffer=replace(lane.buffer, outlets=outlets),
        emitters=emitters,
    )


def seen(
    *changes: Mapping[str, Any], growing: Mapping[str, Range] | None = None, **options: Any
) -> tuple[float, float]:
    observer = Observer()
    observer.note(0.0, tree(*changes, **options))
    return observer.lanes(growing or {})


def test_the_oldest_event_of_any_lane_counts_and_the_mean_of_their_utilization() -> None:
    assert seen({"outlet": 3.0, "share": 0.9}, {"ingest": 4.0, "share": 0.1}) == (4.0, 0.5)
    assert seen({"outlet": 7.0}, {"ingest": 4.0}) == (7.0, 0.0)


@pytest.mark.parametrize(
    ("lane", "oldest"),
    [
        ({"outlet": 70.0, "collects": 60.0}, 10.0),  # is collected on purpose
        ({"outlet": 30.0, "collects": 60.0}, 0.0),
        ({"outlet": 30.0, "required": False}, 0.0),
        ({"ingest": 30.0, "held": 3}, 0.0),  # an Aggregator
        ({"ingest": 30.0}, 30.0),
    ],
)
def test_ages_that_more_lanes_would_not_help_do_not_count(lane: Mapping[str, Any], oldest: float) -> None:
    assert seen(lane) == (oldest, 0.0)


def test_the_age_at_an_emitter_that_takes_nothing_does_not_count() -> None:
    down = {"lane-1/emitter:out": PartHealth(healthy=False, message="down")}
    assert seen({"outlet": 30.0}, unhealthy=down) == (0.0, 0.0)
    assert seen({"outlet": 30.0}) == (30.0, 0.0)


def test_what_a_process_has_used_of_a_core_within_the_latest_seconds_counts() -> None:
    observer = Observer()
    for second in range(20):
        cpu = {"lane-1/ingest": 0.9 * max(0, second - 10), "lane-1/buffer": 0.3 * second, "lane-2/ingest": 0.5 * second}
        made = tree()
        processes = {name: replace(process, cpu_seconds=cpu.get(name, 0.0)) for name, process in made.processes.items()}
        observer.note(float(second), replace(made, processes=processes))
    assert observer.lanes({}).utilization == pytest.approx((0.9 + 0.5) / 2)


def test_a_process_that_was_started_again_has_used_nothing() -> None:
    observer = Observer()
    for second, cpu in enumerate([100.0, 101.0, 0.5]):
        made = tree(lanes=1)
        processes = {name: replace(process, cpu_seconds=cpu) for name, process in made.processes.items()}
        observer.note(float(second), replace(made, processes=processes))
    assert observer.lanes({}).utilization == 0.0


def test_a_lane_that_leaves_does_not_count() -> None:
    observer = Observer()
    observer.note(0.0, tree({"share": 0.2}, {"outlet": 90.0, "share": 0.9}))
    assert observer.lanes({}, frozenset({"lane-2"})) == (0.0, 0.2)
    assert observer.lanes({}, frozenset({"lane-1", "lane-2"})) == (0.0, 0.0)


def test_replicas_are_the_mean_of_their_lane_and_the_busiest_lane_counts() -> None:
    observer = Observer()
    observer.note(0.0, tree({"replicas": (0.9, 0.7), "ingest": 3.0}, {"replicas": (0.1, 0.3), "ingest": 9.0}))
    assert observer.stage("stage-2", RULES) == pytest.approx((3.0, 0.8))  # the other lane waits for something else


def test_lanes_wait_for_a_stage_that_may_have_more_replicas() -> None:
    growing = {"stage-2": Range(1, 2)}
    slow = {"replicas": (1.0,), "ingest": 9.0}
    assert seen(slow, slow, growing=growing) == (0.0, 0.0)
    full = {"replicas": (1.0, 0.8), "ingest": 9.0}
    assert seen(full, full, growing=growing) == pytest.approx((9.0, 0.9))
    assert seen(full, full) == pytest.approx((9.0, 0.9))


def test_the_first_part_that_is_unhealthy_is_named_and_what_scaling_says_is_not() -> None:
    observer = Observer()
    assert observer.unhealthy == "nothing was seen yet"
    own = {"scaling": PartHealth(healthy=False, message="no room")}
    observer.note(0.0, tree(unhealthy=own))
    assert observer.unhealthy == ""
    observer.note(1.0, tree(unhealthy=own | {"lane-1/buffer": PartHealth(healthy=False, message="disk full")}))
    assert observer.unhealthy == "lane-1/buffer: disk full"
