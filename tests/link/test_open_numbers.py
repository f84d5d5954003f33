"""Sets of numbers agree with plain ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.link.open_numbers import OpenNumbers, Ranges


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=40))
def test_ranges_hold_what_was_added_in_as_few_ranges_as_there_are(pairs: list[tuple[int, int]]) -> None:
    ranges, plain = Ranges(), set[int]()
    for first, length in pairs:
        ranges.add(first, first + length)
        plain |= set(range(first, first + length + 1))
        assert [number in ranges for number in range(80)] == [number in plain for number in range(80)]
        assert len(ranges) == sum(number - 1 not in plain for number in plain)
    for first in range(0, 75, 5):
        assert ranges.covers(first, first + 4) == plain.issuperset(range(first, first + 5))


@given(st.lists(st.integers(0, 30), max_size=80))
def test_open_numbers_know_their_neighbours_and_each_gap_is_told_in_one_round(picks: list[int]) -> None:
    numbers, plain = OpenNumbers(), list[int]()
    for number, pick in enumerate(picks, 1):
        if pick % 3 == 0 and plain:
            gone = plain.pop(pick % len(plain))
            numbers.remove(gone)
        numbers.add(number)
        plain.append(number)
        assert numbers.lowest == plain[0]
        assert [numbers.below(one) for one in plain] == [0, *plain[:-1]]
        gap = numbers.next_gap()
        pairs = list(pairwise(plain))
        assert gap in (pairs or [(0, 0)])
    pairs = list(pairwise(plain))
    assert {numbers.next_gap() for _ in pairs} == set(pairs)


@pytest.mark.parametrize("held", [(1,), (1, 2, 3), (1, 50, 51, 300)])
@pytest.mark.parametrize("in_flight", [1, 2, 7])
def test_of_numbers_that_close_in_their_order_beside_some_that_are_held_few_are_ever_untold(
    held: tuple[int, ...], in_flight: int
) -> None:
    numbers, untold = OpenNumbers(), set[int]()
    for number in range(1, 1_000):
        numbers.add(number)
        low, high = numbers.next_gap()
        before = numbers.below(number)
        untold -= {*range(low + 1, high), *range(before + 1, number)}
        assert len(untold) <= 2 * (len(held) + in_flight) + 2
        if (done := number - in_flight) > 0 and done not in held:
            numbers.remove(done)
            untold.add(done)


def test_open_numbers_can_be_emptied() -> None:
    numbers = OpenNumbers()
    assert (numbers.lowest, numbers.next_gap()) == (0, (0, 0))
    numbers.add(4)
    numbers.add(9)
    assert numbers.next_gap() == (4, 9)
    numbers.remove(9)
    assert (numbers.lowest, numbers.next_gap()) == (4, (0, 0))
    numbers.clear()
    assert numbers.lowest == 0
