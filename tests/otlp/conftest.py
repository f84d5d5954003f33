"""A pipeline with OTLP addresses, on each of the two servers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.otlp.requests import door


@pytest.fixture(scope="module", params=["native", "grpcio"])
def place(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLKU_DOOR", request.param)
        with door() as opened:
            yield opened
