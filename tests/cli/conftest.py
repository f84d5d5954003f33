"""A running `polku serve`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def runtime(request: pytest.FixtureRequest) -> str:
    """Name the runtime; Ray is that of the tests, which programs join."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0")
    yield server
    server.stop(signal.SIGKILL)
