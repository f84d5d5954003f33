"""What is seen of a pipeline on Ray: one pipeline for all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from polku import Batch, Failure, Filter, Hub, new_event
from polku.monitoring.statistics import LaneStatistics


def partner(batch: Batch) -> list[Failure]:
    return [Failure(event.id, "no", retryable=False) for event in batch if event.event_type == "poison"]


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_session")
def test_the_tree_is_that_of_the_inline_runtime() -> None:
    hub = Hub().middleware(Filter(lambda event: event.event_type != "noise")).emitter(partner)
    types = ["order", "noise", "poison", "order"]
    shapes = []
    for runtime in ("inline", "ray"):
        with hub.start(runtime=runtime) as pipeline:
            pipeline.sender().send([new_event(type, source="shop") for type in types])
            wait_for(lambda: is_done(pipeline.statistics().lanes[0]))
            tree = pipeline.statistics()
        ingest, buffer = tree.lanes[0].ingest, tree.lanes[0].buffer
        assert ingest is not None
        assert buffer is not None
        (stage,) = tree.lanes[0].stages.values()
        assert (tree.runtime, tree.healthy, tree.ready) == (runtime, True, True)
        assert (ingest.received, ingest.accepted, ingest.ack_seconds.count) == (4, 4, 4)
        assert (stage.type, stage.received, stage.sent, stage.discarded) == ("Filter", 4, 3, {"filtered": 1})
        outlet = buffer.outlets["partner"]
        assert (outlet.confirmed, outlet.dead, outlet.delivery_age_seconds.count) == (2, 1, 3)
        assert [(one.part, one.emitter, one.code, one.total) for one in tree.dead_letters] == [
            ("buffer", "partner", "UNDELIVERED", 1)
        ]
        shapes.append(shape(json.loads(json.dumps(tree.to_json() | {"processes": None}))))
    assert shapes[0] == shapes[1]
    assert len(tree.processes) == 4


def is_done(lane: LaneStatistics) -> bool:
    """Return whether the emitter has its events, and the buffer knows of that: each is asked on its own."""
    confirmed = lane.emitters["partner"].confirmed == 2
    return confirmed and lane.buffer is not None and lane.buffer.outlets["partner"].delivery_age_seconds.count == 3


def shape(value: object) -> object:
    """Return what stands where, without the values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else None
