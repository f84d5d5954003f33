"""No process outlives the test that started it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.durable.process import STARTED


@pytest.fixture(autouse=True)
def end_processes() -> Iterator[None]:
    """Kill what still runs."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        process.wait()
