from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from polku.tap.reservoir import Reservoir


def sampled(size: int, batches: list[int], chance: random.Random, expected: int = 0) -> list[int]:
    """Return which of the items of some batches stand in the sample at the end."""
    reservoir, kept, start = Reservoir(size, chance, expected=expected), dict[int, int](), 0
    for count in batches:
        for choice in reservoir.choose(count):
            assert 0 <= choice.start <= choice.stop <= count
            assert 0 <= choice.place < choice.end <= size
            assert choice.stop - choice.start <= choice.end - choice.place
            for place in range(choice.place, choice.end):
                kept.pop(place, None)
            kept |= {choice.place + n: start + choice.start + n for n in range(choice.stop - choice.start)}
        start += count
    assert reservoir.seen == start
    return sorted(kept.values())


@pytest.mark.parametrize("batches", [[3], [1, 1, 1], [0, 3, 0]])
def test_what_fits_is_kept_once_and_whole(batches: list[int]) -> None:
    assert sampled(10, batches, random.Random(1)) == [0, 1, 2]


@pytest.mark.parametrize("batches", [[1_000], [100], [40, 60], [1] * 100])
def test_as_many_as_there_are_places_are_all_kept(batches: list[int]) -> None:
    size = sum(batches)
    assert sampled(size, batches, random.Random(1)) == list(range(size))


def test_no_place_is_taken_twice_and_all_are() -> None:
    kept = sampled(7, [5, 1, 100, 0, 3], random.Random(2))
    assert len(set(kept)) == len(kept) == 7


@pytest.mark.parametrize(
    ("size", "batches"),
    [(5, [1, 2, 17, 20]), (10, [1, 30, 0, 9, 40]), (20, [40, 40, 40]), (20, [3, 50, 67]), (20, [100, 1, 7, 1, 12])],
)
@pytest.mark.parametrize("expected", [0, pytest.param(30, marks=pytest.mark.slow), 38])
def test_every_item_has_the_same_chance_wherever_it_stands_and_whatever_its_batch(
    size: int, batches: list[int], expected: int
) -> None:
    """Within six standard deviations: by chance one of these items is outside once in a million runs."""
    chance, counts, rounds, items = random.Random(3), Counter[int](), 4_000, sum(batches)
    for _ in range(rounds):
        counts.update(sampled(size, batches, chance, expected))
    share = sum(counts.values()) / rounds / items
    assert share <= size / items
    spread = 6 * math.sqrt(rounds * share * (1 - share))
    assert all(abs(counts[item] - rounds * share) < spread for item in range(items))


def test_a_long_stream_costs_a_few_draws() -> None:
    reservoir = Reservoir(10, random.Random(4))
    assert sum(len(list(reservoir.choose(10))) for _ in range(100_000)) < 250  # 10 (1 + ln 100,000) are 125


@pytest.mark.parametrize("expected", [5, 100, 1_000_000])
def test_as_many_as_are_wanted_are_kept_however_many_were_expected(expected: int) -> None:
    assert (
        16 <= len(sampled(20, [7, 50, 60], random.Random(6), expected)) <= 20
    )  # the last block of a batch may be short
    assert sampled(20, [3, 1], random.Random(6), expected) == [0, 1, 2, 3]


def test_little_is_taken_in_vain_where_it_is_known_how_many_come_at_least() -> None:
    chance = random.Random(7)

    def taken(expected: int) -> int:
        reservoir = Reservoir(100, chance, expected=expected)
        return sum(one.stop - one.start for _ in range(125) for one in reservoir.choose(1_000))

    assert sum(taken(62_500) for _ in range(20)) < sum(taken(0) for _ in range(20)) / 2


def test_most_large_batches_are_not_looked_into() -> None:
    reservoir = Reservoir(100, random.Random(5))
    looked = sum(bool(list(reservoir.choose(1_000))) for _ in range(1_000))
    assert looked < 150  # 5 blocks of 20 items, 5 (1 + ln 10,000) draws are 51
