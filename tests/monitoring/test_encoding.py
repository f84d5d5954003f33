"""Statistics are the same JSON whoever encodes them."""

from __future__ import annotations

import json
import types

import pytest

from polku import Filter, Hub, StdoutEmitter, new_event
from polku.codes import Code
from polku.histogram import Histogram
from polku.monitoring.encoding import encoded
from polku.monitoring.stage_statistics import ErrorStatistics


def test_a_tree_is_what_to_json_returns() -> None:
    hub = Hub(runtime="inline").middleware(Filter(lambda event: True)).emitter(StdoutEmitter())
    with hub.start() as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(3)])
        tree = pipeline.statistics()
    assert json.loads(encoded(tree)) == json.loads(json.dumps(tree.to_json()))


def test_what_holds_trees_and_distributions_is_one_line() -> None:
    histogram = Histogram()
    histogram.record(0.5, 3)
    error = ErrorStatistics(text="a\nb\x1b\u2028", count=1, time_ns=2)
    held = {"errors": [error], "ages": histogram.distribution(), Code.POISON: types.MappingProxyType({"a": (1, None)})}
    text = encoded(held)
    assert b"\n" not in text
    told = {"errors": [error.to_json()], "ages": histogram.distribution().to_json(), "POISON": {"a": [1, None]}}
    assert json.loads(text) == told


def test_half_of_a_surrogate_pair_does_not_keep_the_rest_away() -> None:
    error = ErrorStatistics(text="\ud800", count=1, time_ns=2)
    assert json.loads(encoded({"errors": [error]}))["errors"][0]["text"] == "\ud800"


def test_what_is_no_statistics_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        encoded([object()])
