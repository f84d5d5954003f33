"""What the documents show: senders within training loops and callbacks, as Ray runs them; for Serve, see test_serve.

Ray Train asks the agents of its nodes, which those of the other tests do not have: `test_senders` runs this by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from polku import Hub, Pipeline
from tests.ray.shown import shown
from tests.support.recorder import Recorder

pytestmark = [
    pytest.mark.skipif(find_spec("pandas") is None, reason="Ray Train and Tune need it: pip install 'polku[data]'"),
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore"),  # of Ray Train and Tune, about what is not installed
]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Run a Ray with its agents."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    yield
    ray.shutdown()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "events")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    with Hub(runtime="ray").emitter(recorder).start() as pipeline:
        yield pipeline


def test_workers_of_a_training_and_its_callback_report(pipeline: Pipeline, recorder: Recorder, tmp_path: Path) -> None:
    from ray import train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    training = shown("training", tmp_path)
    sender = pipeline.sender()
    run: Any = train.RunConfig(storage_path=str(tmp_path), name="run", callbacks=[training.Report(sender)])
    DataParallelTrainer(
        training.train_loop,
        train_loop_config={"sender": sender, "run": "run", "epochs": 2},
        scaling_config=train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=run,
    ).fit()
    events = recorder.wait_for(6)
    assert sorted(event.id for event in events if event.event_type == "train.epoch") == [
        *("run-0-0", "run-0-1", "run-1-0", "run-1-1")
    ]
    assert [event.metadata["losses"] for event in events if event.event_type == "train.report"] == [
        *("1.00, 1.00", "0.50, 0.50")
    ]

    def fail(config: dict[str, Any]) -> None:
        raise ValueError("no data")

    with pytest.raises(Exception, match="no data"):
        DataParallelTrainer(
            fail,
            train_loop_config={},
            scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
            run_config=run,
        ).fit()
    failed = recorder.wait_for(7)[-1]
    assert (failed.event_type, failed.metadata["rank"], "no data" in failed.metadata["error"]) == (
        "train.failed",
        "0",
        True,
    )


def test_a_callback_of_tune_reports_trials(pipeline: Pipeline, recorder: Recorder, tmp_path: Path) -> None:
    from ray import tune

    def objective(config: dict[str, Any]) -> None:
        if config["x"] == 2:
            raise ValueError("two")
        tune.report({"loss": float(config["x"])})

    trials = shown("tuning", tmp_path).Trials(pipeline.sender())
    run = tune.RunConfig(storage_path=str(tmp_path), callbacks=[trials], verbose=0)
    tune.Tuner(objective, param_space={"x": tune.grid_search([0, 1, 2])}, run_config=run).fit()
    events = recorder.wait_for(3)
    assert sorted((event.event_type, event.metadata.get("loss", "")) for event in events) == [
        ("trial.failed", ""),
        ("trial.result", "0.0"),
        ("trial.result", "1.0"),
    ]
    assert {event.id for event in events if event.event_type == "trial.result"} == {
        f"{event.metadata['trial']}-1" for event in events if event.event_type == "trial.result"
    }
