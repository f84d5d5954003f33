"""Fixtures for pytest, in every project in which POLKU is installed; what they need is loaded when they are used.

| fixture | what a test gets |
|---|---|
| `polku_run` | `run(hub, events)`, on `polku_clock` |
| `polku_clock` | a `VirtualClock` |
| `polku_pipeline` | `start(hub)`: a running pipeline on `polku_runtime`, stopped after the test |
| `polku_runtime` | `"inline"`, or each runtime that `@pytest.mark.polku("inline", "ray")` names |
| `polku_sink` | a `Sink`: a destination that pipelines on Ray reach too |
| `polku_oracle` | `oracle("archive")`: an `Oracle` whose verdict is checked after the test |
| `polku_simulate` | `simulate(hub)`: minutes of virtual time with faults, for several seeds, checked |
| `polku_ray` | a Ray for the session; override it to have your own |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from polku.hub import Hub
    from polku.pipeline import Pipeline
    from polku.testing.oracle import Oracle
    from polku.testing.simulation import Simulation
    from polku.testing.sink import Sink
    from polku.testing.trial.clock import VirtualClock
    from polku.testing.trial.given import Given
    from polku.testing.trial.outcome import Outcome

_RUNTIMES = ("inline", "ray")
_MARKERS = (
    "polku(*runtimes): run a test with `polku_runtime` on each of these runtimes, 'inline' and 'ray'; both by default",
    "polku_ray: set on each test that runs on Ray; leave them out with -m 'not polku_ray'",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a marked test once on each runtime that it names."""
    marker = metafunc.definition.get_closest_marker("polku")
    if marker is None or "polku_runtime" not in metafunc.fixturenames:
        return
    runtimes = marker.args or _RUNTIMES
    for name in runtimes:
        if name not in _RUNTIMES:
            raise pytest.UsageError(f"@pytest.mark.polku({name!r}): is no runtime; choose 'inline', 'ray', or both")
    marks = {"inline": (), "ray": (pytest.mark.polku_ray,)}
    metafunc.parametrize("polku_runtime", [pytest.param(name, marks=marks[name]) for name in runtimes], indirect=True)


@pytest.fixture
def polku_clock() -> VirtualClock:
    """Return a clock that stands still; `polku_run` uses it."""
    from polku.testing.trial.clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def polku_run(polku_clock: VirtualClock) -> Callable[..., Outcome]:
    """Return `polku.testing.run` on the clock of the test."""
    from polku.testing.trial.run import run

    def run_here(hub: Hub, events: Given | Iterable[Given], **options: Any) -> Outcome:
        return run(hub, events, **{"clock": polku_clock, **options})

    return run_here


@pytest.fixture(scope="session")
def polku_ray() -> Iterator[None]:
    """Have a Ray: the one that the session has initialised or RAY_ADDRESS names, else one that is started here."""
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    else:
        ray.init(log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def polku_runtime(request: pytest.FixtureRequest) -> str:
    """Name the runtime of a test."""
    name = str(getattr(request, "param", "inline"))
    if name == "ray":
        request.getfixturevalue("polku_ray")
    return name


@pytest.fixture
def polku_pipeline(polku_runtime: str) -> Iterator[Callable[..., Pipeline]]:
    """Return what starts a hub on the runtime of the test; takes what `Hub.start` takes."""
    started: list[Pipeline] = []

    def start(hub: Hub, **options: Any) -> Pipeline:
        pipeline = hub.start(**{"runtime": polku_runtime, **options})
        started.append(pipeline)
        return pipeline

    yield start
    for pipeline in reversed(started):
        pipeline.stop(10)


@pytest.fixture
def polku_sink() -> Iterator[Sink]:
    """Return a destination with a port."""
    from polku.testing.sink import Sink

    with Sink() as sink:
        yield sink


@pytest.fixture
def polku_oracle() -> Iterator[Callable[..., Oracle]]:
    """Return what makes an oracle for the emitters of these names; its verdict is checked after the test."""
    from polku.testing.oracle import Oracle

    made: list[Oracle] = []

    def make(*emitters: str, **options: Any) -> Oracle:
        oracle = Oracle(emitters, **options)
        made.append(oracle)
        return oracle

    yield make
    for oracle in made:
        oracle.verdict().check()


@pytest.fixture
def polku_simulate() -> Callable[..., list[Simulation]]:
    """Return what simulates a hub with each of some seeds, and raises `AssertionError` where a promise is broken."""
    from polku.testing.simulation import simulate

    def check(hub: Hub, *, seeds: int | Iterable[int] = 3, **options: Any) -> list[Simulation]:
        done = [simulate(hub, seed=seed, **options) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]
        for simulation in done:
            simulation.check()
        return done

    return check
