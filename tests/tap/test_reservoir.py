from __future__ import annotations

import random
from collections import Counter

import pytest

from polku.tap.reservoir import Reservoir


def sampled(size: int, batches: list[int], chance: random.Random) -> list[int]:
    """Return which of the items of some batches stand in the sample at the end."""
    reservoir, kept, start = Reservoir(size, chance), dict[int, int](), 0
    for count in batches:
        for choice in reservoir.choose(count):
            assert 0 <= choice.position < count
            kept[choice.place] = start + choice.position
        start += count
    assert reservoir.seen == start
    return sorted(kept.values())


@pytest.mark.parametrize("batches", [[3], [1, 1, 1], [0, 3, 0]])
def test_what_fits_is_kept_once_and_whole(batches: list[int]) -> None:
    assert sampled(10, batches, random.Random(1)) == [0, 1, 2]


def test_no_place_is_taken_twice_and_all_are() -> None:
    kept = sampled(7, [5, 1, 100, 0, 3], random.Random(2))
    assert len(set(kept)) == len(kept) == 7


def test_every_item_has_the_same_chance_wherever_it_stands_and_whatever_its_batch() -> None:
    chance, counts, rounds = random.Random(3), Counter[int](), 4_000
    for _ in range(rounds):
        counts.update(sampled(5, [1, 2, 17, 20], chance))
    expected = rounds * 5 / 40
    surprise = sum((counts[item] - expected) ** 2 / expected for item in range(40))
    assert surprise < 90  # chi-square with 39 degrees of freedom, less for each is chosen with others: p < 1e-5


def test_a_long_stream_costs_a_few_draws() -> None:
    reservoir = Reservoir(10, random.Random(4))
    assert sum(len(list(reservoir.choose(1_000))) for _ in range(1_000)) < 250  # 10 (1 + ln 100,000) are 125
