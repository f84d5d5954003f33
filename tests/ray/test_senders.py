"""What the documents show: senders within deployments, training loops and callbacks, as Ray runs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pandas", reason="Ray Train and Tune need it: pip install 'polku[data]'")
pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'polku[serve]'")

from polku import Hub, Pipeline
from tests.docs.pages import ROOT, blocks
from tests.support.recorder import Recorder

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore"),  # of Ray Train and Tune, about what is not installed
]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "events")


@pytest.fixture
def pipeline(recorder: Recorder) -> Iterator[Pipeline]:
    with Hub(runtime="ray").emitter(recorder).start() as pipeline:
        yield pipeline


def shown(name: str, folder: Path) -> ModuleType:
    """Return the module that the page shows, sent to other processes by value."""
    from ray import cloudpickle

    texts = {block.title: block.text for block in blocks(ROOT / "docs" / "ray-applications.md")}
    (folder / f"{name}.py").write_text(texts[f"# {name}.py"])
    sys.path.insert(0, str(folder))
    try:
        module = import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
    sys.modules[name] = module  # where pickle looks whether it is to go by value
    cloudpickle.register_pickle_by_value(module)
    return module


def test_a_deployment_says_what_it_answered(pipeline: Pipeline, recorder: Recorder, tmp_path: Path) -> None:
    from ray import serve

    classifier: Any = shown("answering", tmp_path).Classifier
    serve.start(proxy_location="Disabled")
    try:
        bound = classifier.options(ray_actor_options={"num_cpus": 0}).bind(pipeline.sender())
        handle: Any = serve.run(bound, name="answering", route_prefix=None)
        assert handle.remote("hello").result(timeout_s=60) == {"label": "short", "recorded": True}
        (event,) = recorder.wait_for(1)
    finally:
        serve.shutdown()
    assert (event.event_type, event.payload, event.metadata["label"]) == ("prediction", b"hello", "short")


@pytest.mark.slow
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


@pytest.mark.slow
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
