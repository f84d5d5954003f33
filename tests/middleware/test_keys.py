"""What steps remember of strangers has a bounded length."""

from __future__ import annotations

import sys

import pytest

from polku.middleware import Deduplicator, Throttle
from polku.middleware.keys import LONGEST, bounded_key, bounded_keys
from tests.middleware.harness import events, ids, work
from tests.support.clock import FakeClock

LONG = "x" * 1_000_000


def _bytes(step: object, attribute: str) -> int:
    return sum(sys.getsizeof(key) for key in getattr(step, attribute))


def test_short_keys_stay_and_long_ones_are_told_apart_by_a_digest() -> None:
    short = ["a", "", "ä" * LONGEST]
    assert bounded_keys(short) is short
    assert bounded_keys([]) == []
    keys = bounded_keys([*short, LONG, LONG + "y", "\ud800" * 100])
    assert keys[:3] == short
    assert len(set(keys)) == 6
    assert max(map(len, keys)) <= LONGEST
    assert bounded_key(LONG) == keys[3]


async def test_a_deduplicator_remembers_long_ids_by_little() -> None:
    step = Deduplicator().build(FakeClock())
    given = events(LONG + "a", LONG + "b", "c")
    assert ids(await work(step, given, 1)) == [event.id for event in given]
    step.settled(1, frozenset({1}))
    assert ids(await work(step, events(LONG + "a", LONG + "b", "c"), 2)) == [LONG + "b"]
    assert _bytes(step, "_seen") < 1_000


@pytest.mark.parametrize("name", ["agent", LONG])
async def test_a_throttle_remembers_long_sources_by_little(name: str) -> None:
    step = Throttle(1, burst=2).build(FakeClock())
    assert len(ids(await work(step, events(*"abc", source=name)))) == 2
    assert ids(await work(step, events("d", source=name))) == []
    assert len(ids(await work(step, events("e", source=name + "y")))) == 1
    assert _bytes(step, "_buckets") < 1_000
