"""No byte of a large payload is copied more often than it is today, however slow the machine is."""

from __future__ import annotations

import sys

import pytest

from tests.bench.copies import COMPILER, SHAPES, count

MOST = {"inline": 14.0, "inline, no middleware": 10.5}
"""Times: half a copy more than is counted, as more is joined where messages wait."""


@pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler, cc or gcc")
@pytest.mark.parametrize("shape", ["inline", pytest.param("inline, no middleware", marks=pytest.mark.slow)])
def test_the_bytes_of_a_payload_are_copied_so_often_at_most(shape: str) -> None:
    passes = count(SHAPES[shape], events=10, payload=16_000, least=1_024)["pipeline"]
    assert 1 < passes.copied < MOST[shape]
    assert 1 <= passes.read < 1.1
    assert 1 <= passes.written < 1.1
