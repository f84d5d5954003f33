"""Exact counts by id, from batches that come whole, in parts, twice, out of order, or not at all."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from polku.bench.ledger import Ledger
from polku.bench.workload import PREFIX

BATCH = 3


def heads(*events: tuple[int, int]) -> bytes:
    return b"".join(PREFIX + b"%05d.%010d" % (index, number) for number, index in events)


def whole(number: int) -> bytes:
    return heads(*((number, index) for index in range(BATCH)))


def test_what_comes_once_is_no_duplicate_and_in_order() -> None:
    ledger = Ledger(BATCH)
    ledger.note(whole(0) + whole(1))
    ledger.note(heads((2, 0)))
    ledger.note(heads((2, 1), (2, 2)))
    assert (ledger.seen, ledger.duplicates, ledger.reordered) == (9, 0, 0)


def test_what_comes_again_is_counted_whole_or_in_parts() -> None:
    ledger = Ledger(BATCH)
    ledger.note(whole(0) + whole(0) + heads((0, 1)))
    ledger.note(heads((1, 2)) + whole(1))
    assert (ledger.seen, ledger.duplicates) == (6, 5)


def test_what_comes_late_is_reordered_but_each_connection_has_its_own_order() -> None:
    one, two = Ledger(BATCH, 1), Ledger(BATCH, 2)
    for ledger in (one, two):
        ledger.note(whole(1) + whole(0) + whole(3) + whole(2))
    assert (one.reordered, two.reordered) == (2, 0)


def test_missing_are_those_that_the_other_has_seen() -> None:
    acknowledged, delivered = Ledger(BATCH), Ledger(BATCH)
    acknowledged.note(whole(0) + whole(1) + heads((2, 0), (2, 1)) + whole(3))
    delivered.note(whole(0) + heads((1, 0)) + heads((2, 1), (2, 2)))
    assert delivered.missing(acknowledged) == 2 + 1 + 3


EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, BATCH - 1)), max_size=40)
BATCHES = st.lists(st.integers(0, 5), max_size=8)


@given(EVENTS, BATCHES, EVENTS, BATCHES)
def test_counts_are_those_of_a_counter(
    sent: list[tuple[int, int]], sent_batches: list[int], came: list[tuple[int, int]], came_batches: list[int]
) -> None:
    counted = []
    for events, batches in ((sent, sent_batches), (came, came_batches)):
        ledger = Ledger(BATCH)
        ledger.note(heads(*events) + b"".join(map(whole, batches)))
        counter = Counter(events) + Counter((number, index) for number in batches for index in range(BATCH))
        assert ledger.seen == len(counter)
        assert ledger.duplicates == sum(counter.values()) - len(counter)
        counted.append((Ledger.from_json(json.loads(json.dumps(ledger.to_json()))), counter))
    (acknowledged, expected), (delivered, seen) = counted
    assert delivered.missing(acknowledged) == len(expected.keys() - seen.keys())
    union = Ledger(BATCH)
    union.merge([acknowledged, delivered])
    assert union.seen == len(expected.keys() | seen.keys())
