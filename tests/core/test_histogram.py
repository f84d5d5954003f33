"""Percentiles in bounded memory."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.histogram import Histogram


def test_percentiles_of_nothing_are_none() -> None:
    assert Histogram().percentile(50) is None


@given(st.lists(st.floats(1e-6, 7200), min_size=1, max_size=200), st.floats(1, 100))
def test_percentiles_are_right_within_their_precision(durations: list[float], percent: float) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    again = Histogram.from_json(json.loads(json.dumps(histogram.to_json())))
    exact = sorted(durations)[max(0, -(-len(durations) * percent // 100).__int__() - 1)]
    found = again.percentile(percent)
    assert found == pytest.approx(exact, rel=0.017, abs=2e-6)


def test_memory_is_bounded_and_counts_add_up() -> None:
    histogram, other = Histogram(), Histogram()
    for number in range(100_000):
        histogram.record(number * 1e-3)
    other.record(0.5, 1_000)
    histogram.merge(other)
    assert histogram.count == 101_000
    assert len(histogram.to_json()) < 2_000


@given(st.lists(st.integers(0, 5_000), max_size=100), st.lists(st.integers(0, 5_000), max_size=100))
def test_distributions_merge_as_if_one_histogram_had_counted_all(left: list[int], right: list[int]) -> None:
    one, two, both = Histogram(unit=1.0), Histogram(unit=1.0), Histogram(unit=1.0)
    for histogram, values in ((one, left), (two, right), (both, left + right)):
        for value in values:
            histogram.record(value)
    merged = one.distribution().merged(two.distribution())
    assert merged == both.distribution()
    assert merged.sum == sum(left + right)


def test_what_is_counted_below_a_bound_is_cumulative() -> None:
    histogram = Histogram()
    for milliseconds, count in ((1, 5), (20, 3), (3_000, 2)):
        histogram.record(milliseconds / 1e3, count)
    assert histogram.distribution().cumulative([0.001, 0.01, 0.1, 1.0, 10.0]) == [5, 5, 8, 8, 10]
    assert Histogram().distribution().cumulative([1.0, 2.0]) == [0, 0]
    assert histogram.distribution().to_json()["count"] == 10
