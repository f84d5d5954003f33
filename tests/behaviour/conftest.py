"""Each behaviour is tested on both runtimes through `start`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from polku import Hub, Pipeline

Start = Callable[..., Pipeline]


@pytest.fixture(params=["inline", "ray"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Name the runtime."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture
def start(runtime: str) -> Iterator[Start]:
    """Start hubs, and stop them at the end of the test."""
    started: list[Pipeline] = []

    def start(hub: Hub, **options: object) -> Pipeline:
        pipeline = hub.start(runtime=runtime, **options)  # type: ignore[arg-type]
        started.append(pipeline)
        return pipeline

    yield start
    for pipeline in started:
        pipeline.stop(10)
