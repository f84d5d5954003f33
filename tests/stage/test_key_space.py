"""Keys belong to the same partition everywhere, partitions have equal shares, few keys move when there is one more."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.stage.key_space import MOST_PARTITIONS, SLOTS, KeySpace, owners, slot_of

KEYS = [f"event-{number}" for number in range(20_000)]


class Colour(Enum):
    RED = 1
    BLUE = 2


class Word(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


@dataclass(frozen=True)
class Place:
    row: int
    column: int
    note: str = field(default="", compare=False)


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 8, 64, MOST_PARTITIONS])
def test_partitions_have_equal_shares_of_the_slots(partitions: int) -> None:
    shares = Counter(owners(partitions))
    assert set(shares) == set(range(partitions))
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.parametrize("partitions", [1, 2, 3, 8, 63])
def test_one_partition_more_takes_its_share_and_nothing_else_moves(partitions: int) -> None:
    before, after = owners(partitions), owners(partitions + 1)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {new for _, new in moved} == {partitions}
    assert len(moved) == SLOTS // (partitions + 1)


@pytest.mark.parametrize("partitions", [2, 5, 8])
def test_keys_are_spread_over_the_partitions(partitions: int) -> None:
    for keys in (KEYS, [str(number) for number in range(20_000)], [f"{number:032x}" for number in range(20_000)]):
        counts = Counter(map(KeySpace(partitions).partition_of, keys))
        assert max(counts.values()) < 1.15 * len(keys) / partitions
        assert min(counts.values()) > 0.85 * len(keys) / partitions


def test_the_choice_is_the_same_for_ever() -> None:
    """Actors of one pipeline may be of several versions of Python."""
    texts: list[Hashable] = ["", "a", "b", "event-1", "ä", "\ud800"]
    assert [slot_of(key) for key in texts] == [0, 4005, 526, 2384, 2721, 2857]
    others: list[Hashable] = [b"a", 1, -1, 0.5, None, ("s", "t"), frozenset("ab"), Colour.RED]
    assert [slot_of(key) for key in others] == [4005, 182, 567, 3352, 0, 2447, 1996, 3801]
    assert sha256(b"".join(map(owners, (1, 2, 3, 8, 64, MOST_PARTITIONS)))).hexdigest()[:16] == "c4e0128a3b8cdde4"


def test_another_process_chooses_alike() -> None:
    code = "from polku.stage.key_space import KeySpace as K; print([K(8).partition_of((n, f'{n}')) for n in range(50)])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == str([KeySpace(8).partition_of((n, f"{n}")) for n in range(50)])


@pytest.mark.parametrize(
    "alike",
    [
        (1, 1.0, True, Fraction(1), Decimal(1), Number.ONE),
        (0, 0.0, -0.0, False),
        (10**400, Fraction(10**400)),
        (0.5, Fraction(1, 2), Decimal("0.5")),
        ("red", Word.RED),
        (Place(1, 2), Place(1, 2, note="another")),
        ((1, "a"), (1.0, "a")),
        (frozenset({1, 2, 3}), frozenset({3.0, 2, True})),
    ],
)
def test_equal_keys_have_one_slot(alike: tuple[Hashable, ...]) -> None:
    assert all(one == alike[0] for one in alike)
    assert len({slot_of(one) for one in alike}) == 1


def test_other_keys_have_other_slots_as_a_rule() -> None:
    others = [("a", "bc"), ("ab", "c"), ("abc",), Colour.RED, Colour.BLUE, Place(1, 2), Place(2, 1), 1, 2, 0.1, "x"]
    assert len({slot_of(one) for one in others}) == len(others)


def test_keys_of_which_nothing_is_known_are_all_in_one_partition() -> None:
    assert len({KeySpace(8).partition_of(key) for key in (object(), object(), complex(1, 2), float("nan"), len)}) <= 2


@pytest.mark.parametrize("keys", [KEYS[:50], [*KEYS[:9], "\ud800", "ä"], ["a", b"b", 3, None, ("x", 1)], []])
def test_many_keys_have_the_partitions_that_each_has(keys: list[Hashable]) -> None:
    space = KeySpace(7)
    assert space.partitions_of(keys) == [space.partition_of(key) for key in keys]


@given(st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.tuples(st.text(), st.integers())))
def test_every_key_belongs_to_a_partition(key: Hashable) -> None:
    assert 0 <= KeySpace(5).partition_of(key) < 5
