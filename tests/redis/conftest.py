"""A real redis-server for the tests of this folder, and a stream of its own for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.redis.server import Server
from tests.support.recorder import Recorder

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with server.client() as client:
        yield client


@pytest.fixture
def stream() -> str:
    return f"stream-{next(NUMBERS)}"


@pytest.fixture
def out(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")
