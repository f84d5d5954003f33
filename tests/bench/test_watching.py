"""What the bench of watchers makes of its measurements."""

from __future__ import annotations

import pytest

from tests.bench.watching import (
    BARE,
    ELSEWHERE,
    OPEN,
    TAPPED,
    WATCHED,
    Cost,
    interval,
    more_memory,
    ratio,
    table,
    too_much,
    verdicts,
)

RATES = (100.0, 200.0, 50.0, 120.0)


def costs(cpu: float, memory: float = 40.0, slower: float = 1.0) -> list[Cost]:
    """Return what four rounds cost, of which each has a pace of its own."""
    return [Cost(rate * slower, cpu * 100.0 / rate, memory) for rate in RATES]


FOUND = {
    BARE: costs(3.0),
    OPEN: costs(3.0, 41.0),
    ELSEWHERE: costs(3.1, 41.0, 0.96),
    WATCHED: costs(3.11, 43.0, 0.95),
    TAPPED: costs(3.16, 44.0, 0.90),
}


def test_each_round_is_held_against_itself() -> None:
    assert ratio(FOUND, WATCHED, OPEN, "rate").mean == pytest.approx(0.95)
    assert ratio(FOUND, WATCHED, ELSEWHERE, "cpu_us").high == pytest.approx(3.11 / 3.1)
    assert more_memory(FOUND, WATCHED) == 3.0
    assert [line.split(" | ")[2].split()[0] for line in table(FOUND)[2:]] == [
        "1.000",
        "1.000",
        "0.960",
        "0.950",
        "0.900",
    ]
    assert verdicts(FOUND)[1].startswith("and a tap: +1.6% CPU an event (+1.6% to +1.6%) against")


def test_an_interval_is_as_wide_as_the_rounds_differ() -> None:
    assert interval([0.0, 0.0, 0.0]) == (1.0, 1.0, 1.0)
    some, more = interval([-0.01, 0.01] * 3), interval([-0.01, 0.01] * 30)
    assert some.low < more.low < 1.0 < more.high < some.high
    assert some.high == pytest.approx(1.0 + 2.57 * 0.01095 / 6**0.5, rel=1e-3)  # of Student's table, for 5
    assert interval([0.1]).low == 0.0


def test_what_costs_more_than_it_may_is_named_and_what_is_in_doubt_is_not() -> None:
    assert too_much(FOUND) == []
    assert verdicts(FOUND)[0].endswith("less than 1% is shown")
    assert too_much({**FOUND, WATCHED: costs(3.14, 43.0)}) == [WATCHED]
    doubtful = [cost._replace(cpu_us=cost.cpu_us * (0.9 + 0.2 * (n % 2))) for n, cost in enumerate(FOUND[WATCHED])]
    assert too_much({**FOUND, WATCHED: doubtful}) == []
    assert verdicts({**FOUND, WATCHED: doubtful})[0].endswith("less than 1% is neither shown nor refuted")
    assert too_much({**FOUND, WATCHED: costs(3.11, 44.5)}) == [WATCHED]
