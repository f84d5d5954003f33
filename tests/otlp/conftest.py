"""A pipeline with OTLP addresses, on each of the two servers, and a real Collector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients import toolchains
from tests.otlp.requests import door

SOURCE = Path(__file__).parent / "clients" / "collector"


@pytest.fixture(scope="module", params=["native", "grpcio"])
def place(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLKU_DOOR", request.param)
        with door() as opened:
            yield opened


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the Collector, which takes minutes the first time."""
    toolchains.need("go")
    work = tmp_path_factory.mktemp("collector")
    toolchains.run(["go", "build", "-o", str(work / "collector"), "."], SOURCE, {"GOFLAGS": "-modcacherw"})
    return str(work / "collector")
