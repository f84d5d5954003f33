"""The pauses of deliveries around changes: how they are found among times of writes, and a run of a few changes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from ray import cloudpickle

from polku import Hub
from tests.bench.pauses import QUIET, REFUSED, Changing, Window, done, kind_of, pause, percentile, table
from tests.chaos import files
from tests.chaos.files import TIMED

WRITTEN = [1.0, 1.1, 1.2, 2.2, 2.3, 5.0, 5.1]


@pytest.mark.parametrize(
    ("began", "ended", "longest"),
    [
        (1.0, 1.15, 0.1),
        (1.0, 2.25, 1.0),
        (1.5, 1.9, 1.0),  # within a pause
        (2.25, 2.9, 2.7),  # a pause that ends after the window
        (4.0, 5.05, 2.7),  # and one that began before it
        (6.0, 7.0, 0.0),
    ],
)
def test_the_pause_is_the_longest_time_without_a_write_that_meets_the_window(
    began: float, ended: float, longest: float
) -> None:
    assert pause(WRITTEN, Window("code", began, ended)) == pytest.approx(longest)


def test_percentiles_are_values_that_were_found() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert percentile([3.0], 0.5) == 3.0


def test_changes_that_were_refused_do_not_count() -> None:
    assert done({QUIET: [0.1], REFUSED: [0.2], "code": [0.3], "code ports": [0.4]}) == [0.3, 0.4]


def test_the_pipeline_that_is_changed_can_be_sent_to_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"FOLDER": str(tmp_path), "BUFFER": "ring", "SINK": "127.0.0.1:1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"CHAOS_{name}", value)
    for name in ("version", "lanes"):
        (tmp_path / name).write_text("1")
    hub: Hub = runpy.run_path("tests/chaos/pipeline.py")["hub"]
    cloudpickle.register_pickle_by_value(files)  # as a reload does with what stands next to a pipeline
    try:
        assert hub.plan("ray").lanes == 1
    finally:
        cloudpickle.unregister_pickle_by_value(files)


def test_a_change_is_called_by_what_differs() -> None:
    assert kind_of((0, 1), (0, 1)) == "code"
    assert kind_of((0, 1), (2, 2)) == "code emitter lanes"
    assert kind_of((0, 1), (4, 1)) == "code stages ports"


def test_each_kind_has_a_row() -> None:
    assert table("ray", {"code": [0.1, 0.2], QUIET: [0.01], "refused": [0.3]})[2:] == [
        "| ray | (no change) | 1 | 10 ms | 10 ms | 10 ms |",
        "| ray | all changes | 2 | 100 ms | 200 ms | 200 ms |",
        "| ray | code | 2 | 100 ms | 200 ms | 200 ms |",
        "| ray | refused | 1 | 300 ms | 300 ms | 300 ms |",
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_few_changes_are_measured_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMED, "1")
    changing = Changing(tmp_path, "inline", 3, rate=200.0, lanes=1)
    outcome = changing.measure(changes=3, quiet=1)
    outcome.verdict.check(duplicates=False)
    assert (outcome.refused, changing.refusals) == (0, {})
    pauses = changing.pauses()
    assert len(pauses[QUIET]) == 1
    found = [value for kind, values in pauses.items() if kind != QUIET for value in values]
    assert len(found) == 3
    assert all(0.0 < value < 60.0 for value in found)
