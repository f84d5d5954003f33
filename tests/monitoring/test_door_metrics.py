"""Metrics at the HTTP door, for whom it knows: of the whole pipeline, or of its node's lane alone."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import parser

from polku import Batch, Filter, Hub, new_event
from tests.monitoring.test_admin import get

TOKEN = {"Authorization": "Bearer sesame"}


def partner(batch: Batch) -> None:
    """Take everything."""


def lanes_in(text: str) -> dict[str, set[str]]:
    """Return which lanes each metric that has them is about."""
    found: dict[str, set[str]] = {}
    parse: Any = parser.text_string_to_metric_families
    for family in parse(text):
        for sample in family.samples:
            if "lane" in sample.labels:
                found.setdefault(family.name, set()).add(sample.labels["lane"])
    return found


def test_the_door_shows_them_to_whom_it_knows() -> None:
    hub = Hub(runtime="inline").emitter(partner)
    with hub.start(http_addr="127.0.0.1:0", http_token="sesame") as pipeline:
        assert get(pipeline.http_address, "/metrics")[0] == 401
        assert get(pipeline.http_address, "/metrics", {"Authorization": "Bearer open"})[0] == 401
        status, text, headers = get(pipeline.http_address, "/metrics", TOKEN)
        assert (status, headers["Cache-Control"]) == (200, "no-store")
        assert 'polku_ready{pipeline="polku"} 1.0' in text
        accepted = {**TOKEN, "Accept": "application/openmetrics-text; version=1.0.0"}
        assert get(pipeline.http_address, "/metrics", accepted)[1].endswith("# EOF\n")


def test_a_door_that_knows_nobody_shows_none() -> None:
    with Hub(runtime="inline").emitter(partner).start(http_addr="127.0.0.1:0") as pipeline:
        status, text, _ = get(pipeline.http_address, "/metrics", TOKEN)
        assert (status, "admin address" in text, "polku_ready" in text) == (403, True, False)


@pytest.mark.usefixtures("ray_session")
def test_a_lane_of_each_node_shows_its_own() -> None:
    import ray

    hub = Hub().middleware(Filter(lambda event: True)).emitter(partner)
    with hub.lanes(2).start(runtime="ray") as pipeline:
        runtime: Any = pipeline._runtime
        both = ray.get(runtime.supervisor.statistics.remote())
        one = ray.get(runtime.supervisor.statistics.remote("lane-2/"))  # as the door of a node's lane asks
        assert [lane.name for lane in both.lanes] == ["lane-1", "lane-2"]
        assert [lane.name for lane in one.lanes] == ["lane-2"]
        assert set(one.processes) == {name for name in both.processes if name.startswith("lane-2/")} != set()
        assert set(one.parts) == {name for name in both.parts if name.startswith("lane-2/")} != set()
    each = Hub().middleware(Filter(lambda event: True)).emitter(partner).lanes("per-node")
    with each.start(runtime="ray", http_addr="127.0.0.1:0", http_token="sesame") as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(3)])
        status, text, _ = get(pipeline.http_address, "/metrics", TOKEN)
        assert status == 200, text
        assert lanes_in(text)["polku_component_received_events"] == {"lane-1"}
