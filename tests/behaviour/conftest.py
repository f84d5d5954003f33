"""Each behaviour is tested on both runtimes through `start`, and by `make slow` with a chained lane too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from polku import Event, Hub, Pipeline, new_event

Start = Callable[..., Pipeline]
on_ray_when_slow = pytest.mark.parametrize(
    "arrangement",
    ["inline", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ray", "chained"))],
    indirect=True,
)
"""Behaviours of objects that are the same on both runtimes: `make slow` tries them on Ray too."""


@pytest.fixture(params=["inline", "ray", pytest.param("chained", marks=pytest.mark.slow)])
def arrangement(request: pytest.FixtureRequest) -> str:
    """Name the runtime, or `chained` for a lane that is one actor."""
    if request.param != "inline":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture
def runtime(arrangement: str) -> str:
    """Name the runtime."""
    return "ray" if arrangement == "chained" else arrangement


@pytest.fixture
def start(arrangement: str, runtime: str) -> Iterator[Start]:
    """Start hubs, and stop them at the end of the test."""
    started: list[Pipeline] = []

    def start(hub: Hub, **options: object) -> Pipeline:
        if arrangement == "chained":
            hub.chain()
        pipeline = hub.start(runtime=runtime, **options)  # type: ignore[arg-type]
        started.append(pipeline)
        return pipeline

    yield start
    for pipeline in started:
        pipeline.stop(30)


def numbered(count: int, event_type: str = "user.login", source: str = "test") -> list[Event]:
    return [new_event(event_type, source=source, id=f"{event_type}-{number:06d}") for number in range(count)]
