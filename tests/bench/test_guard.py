"""The guard of the hot path: it is quiet today, and it barks at a pipeline that was made slow on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku.bench import Subject
from tests.bench.guard import GUARDED, cost_ratio, rounds

SLOWED = """
import os

from polku import Filter, Hub, StdoutEmitter, Transform

def burn(event):
    for _ in range(int(os.environ["TURNS"])): pass

hub = Hub().middleware(Filter(lambda event: True)).middleware(Transform(burn)).emitter(StdoutEmitter())
"""
TURNS = {"batches": 1_000, "payloads of 1 kB": 2_000, "messages of ten": 5_000, "unary calls": 20_000}


@pytest.mark.parametrize("name", GUARDED)
def test_the_pipeline_costs_no_multiple_of_a_bare_relay_and_a_slowed_one_is_noticed(name: str, tmp_path: Path) -> None:
    (tmp_path / "slowed.py").write_text(SLOWED)
    load, most = GUARDED[name]
    slow = Subject(file=str(tmp_path / "slowed.py"), environment={"TURNS": str(TURNS[name])})
    bare, pipeline, slowed = rounds([Subject(), slow], load, 2)
    while cost_ratio(bare, pipeline) >= most and len(bare) < 10:  # on a crowded machine the least comes later
        for known, more in zip((bare, pipeline, slowed), rounds([Subject(), slow], load, 2), strict=True):
            known += more
    assert {result.lost for result in [*pipeline, *slowed]} == {0}
    assert cost_ratio(bare, pipeline) < most
    assert cost_ratio(bare, slowed) > most
