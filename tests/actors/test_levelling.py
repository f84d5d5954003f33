"""How many connections lanes ask to connect again, until those that were added have their share."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.actors import levelling
from polku.actors.levelling import to_ask
from tests.support.examples import examples


def test_lanes_with_more_than_their_share_ask_and_half_of_a_lane_at_most() -> None:
    counts = {1: {"grpc_addr": 40, "http_addr": 4}, 2: {"grpc_addr": 0, "http_addr": 4}}
    assert to_ask(counts, frozenset({2})) == {1: {"grpc_addr": 20}}


def test_as_many_are_asked_as_bring_the_missing_ones_when_some_come_back() -> None:
    counts = {1: {"grpc_addr": 24}, 2: {"grpc_addr": 24}, 3: {"grpc_addr": 24}, 4: {"grpc_addr": 12}}
    # A mean of 21: three more than that each, of which a quarter meets the lane that was added.
    assert to_ask(counts, frozenset({4})) == {lane: {"grpc_addr": 12} for lane in (1, 2, 3)}


@pytest.mark.parametrize(
    ("counts", "fresh"),
    [
        ({}, {1}),
        ({1: {"grpc_addr": 1}, 2: {"grpc_addr": 0}}, {2}),
        ({1: {"grpc_addr": 9}, 2: {"grpc_addr": 7}}, {2}),
        ({1: {"grpc_addr": 9}, 2: {}}, {3}),
        ({1: {}, 2: {}}, {2}),
    ],
)
def test_nobody_is_asked_where_it_would_not_help(counts: dict[int, dict[str, int]], fresh: set[int]) -> None:
    assert to_ask(counts, frozenset(fresh)) == {}


@examples(100)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(20, 400), st.integers())
def test_a_few_rounds_spread_them(before: int, more: int, clients: int, seed: int) -> None:
    chance = random.Random(seed)
    lanes = range(1, before + more + 1)
    at = [chance.randint(1, before) for _ in range(clients)]
    moves = 0
    for _ in range(levelling._ROUNDS):
        found = Counter(at)
        asked = to_ask({lane: {"grpc_addr": found[lane]} for lane in lanes}, frozenset(lanes[before:]))
        for lane, counts in asked.items():
            here = [client for client in range(clients) if at[client] == lane]
            assert counts["grpc_addr"] <= (len(here) + 1) // 2
            for client in chance.sample(here, counts["grpc_addr"]):
                at[client] = chance.choice(lanes)
                moves += 1
    fresh = sum(1 for lane in at if lane > before)
    share = clients * more / len(lanes)
    assert fresh > share / 3 - 3
    assert moves <= 4 * clients
