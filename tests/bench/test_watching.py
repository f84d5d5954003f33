"""What the bench of watchers makes of its measurements."""

from __future__ import annotations

from tests.bench.watching import BARE, OPEN, TAPPED, WATCHED, Cost, ratios, table, too_much

FOUND = {
    BARE: [Cost(100.0, 3.0, 40.0), Cost(200.0, 3.0, 40.0), Cost(50.0, 3.0, 40.0)],
    OPEN: [Cost(100.0, 3.0, 41.0), Cost(200.0, 3.0, 41.0), Cost(50.0, 3.0, 41.0)],
    WATCHED: [Cost(99.5, 3.03, 43.0), Cost(198.0, 3.03, 43.0), Cost(49.9, 3.03, 43.0)],
    TAPPED: [Cost(98.0, 3.3, 46.0), Cost(190.0, 3.3, 46.0), Cost(49.0, 3.3, 46.0)],
}


def test_each_round_is_held_against_itself() -> None:
    assert ratios(FOUND, WATCHED) == Cost(0.995, 1.01, 3.0)
    assert ratios(FOUND, BARE) == Cost(1.0, 1.0, 0.0)
    assert [line.split(" | ")[2] for line in table(FOUND)[2:]] == ["1.000", "1.000", "0.995", "0.980"]


def test_what_costs_more_than_it_may_is_named() -> None:
    assert too_much(FOUND) == []
    slow = [cost._replace(rate=0.98 * cost.rate) for cost in FOUND[BARE]]
    assert too_much({**FOUND, WATCHED: slow}) == [WATCHED]
    large = [cost._replace(memory_mb=44.5) for cost in FOUND[WATCHED]]
    assert too_much({**FOUND, WATCHED: large}) == [WATCHED]
