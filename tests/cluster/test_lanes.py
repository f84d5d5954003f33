"""The table of what the processes of several lanes use."""

from __future__ import annotations

from polku.bench.result import PartResult
from tests.cluster.lanes import cost_of_lanes, rows


def test_each_kind_of_part_has_a_row_with_the_medians_of_what_its_processes_used() -> None:
    def one(cpu: float) -> dict[str, PartResult]:
        lanes = {f"lane-{number}": PartResult(cpu, 80.0) for number in (1, 2)}
        return {**lanes, "stage-2": PartResult(3.0, 60.0), "supervisor": PartResult(0.5, 50.0)}

    assert rows([one(2.0), one(4.0), one(3.0)]) == [
        "lane | 2 | 6.00 | 160",
        "stage | 1 | 3.00 | 60",
        "supervisor | 1 | 0.50 | 50",
    ]
    assert cost_of_lanes(one(2.0)) == 4.0
