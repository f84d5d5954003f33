"""The guard of the hot path: it is quiet today, and it barks at a pipeline that was made slow on purpose."""

from __future__ import annotations

from pathlib import Path

from polku.bench import Subject
from tests.bench.guard import MOST, cost_ratio, rounds

SLOWED = """
from polku import Filter, Hub, StdoutEmitter, Transform

def burn(event):
    for _ in range(1_000): pass

hub = Hub().middleware(Filter(lambda event: True)).middleware(Transform(burn)).emitter(StdoutEmitter())
"""


def test_the_pipeline_costs_no_multiple_of_a_bare_relay_and_a_slowed_one_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "slowed.py").write_text(SLOWED)
    subjects = [Subject(), Subject(file=str(tmp_path / "slowed.py"))]
    bare, pipeline, slowed = rounds(subjects, 2)
    while cost_ratio(bare, pipeline) >= MOST and len(bare) < 10:  # on a crowded machine the least comes later
        for known, more in zip((bare, pipeline, slowed), rounds(subjects, 2), strict=True):
            known += more
    assert {result.lost for result in [*bare, *pipeline, *slowed]} == {0}
    assert cost_ratio(bare, pipeline) < MOST
    assert cost_ratio(bare, slowed) > MOST
