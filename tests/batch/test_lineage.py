"""What is refused further down is traced back to what it was made of."""

from __future__ import annotations

import random

import pytest

from polku import Code, Event, Refusal
from polku.batch.lineage import order_digest, origins, trace_back
from polku.contracts import DeadEvent, Outcome
from polku.middleware.per_event import chosen


@pytest.mark.parametrize("codes", [(Code.UNDELIVERED, Code.BUFFER_FULL), (Code.BUFFER_FULL, Code.UNDELIVERED)])
def test_of_an_event_that_was_cut_the_refusal_counts_that_is_worth_sending_again(codes: tuple[Code, Code]) -> None:
    given = [Event(id="a")]
    parts = Outcome([Event(id="a-1"), Event(id="a-2")], origins=[(0,), (0,)])
    refused = {at: Refusal(f"a-{at + 1}", code, code.lower(), position=at) for at, code in enumerate(codes)}
    assert trace_back(given, parts, refused)[0].code is Code.BUFFER_FULL


def events(ids: str) -> list[Event]:
    return [Event(id=i) for i in ids]


def test_what_leaves_each_event_at_its_place_has_no_digest() -> None:
    given = events("abc")
    outcomes = [
        Outcome(given),
        Outcome(list(given)),
        Outcome(events("xyz"), origins=[(0,), (1,), (2,)]),
        Outcome(events("xyz"), kept=b"\1\1\1"),
        Outcome(events("abc")),
        chosen(given, b"\1\1\1"),
    ]
    assert [order_digest([(given, outcome)]) for outcome in outcomes] == [""] * len(outcomes)


def test_a_digest_says_which_events_go_on_and_where_whatever_they_contain() -> None:
    given = events("abcd")
    a, b, c, d = given
    outcomes = [
        Outcome([a, b]),
        Outcome([b, a]),
        Outcome([a, b, c]),
        Outcome([a, b, c, d, d]),
        Outcome([a, b, d, c]),
        Outcome(events("xyz"), origins=[(0, 1), (2,), (3,)]),
        Outcome(events("xyzu"), origins=[(0,), (1,), (2,), (2,)]),
        Outcome(events("xyzu"), origins=[(0, 1, 2, 3), (), (), ()]),
        Outcome([a, *events("x")]),
        Outcome([b, *events("x")]),
        Outcome([a, *events("c")]),
        Outcome(events("x"), [DeadEvent(a, Refusal("a", Code.MIDDLEWARE_ERROR, "", position=0))]),
        Outcome(events("x")),
    ]
    digests = [order_digest([(given, outcome)]) for outcome in outcomes]
    assert len(set(digests)) == len(digests)
    assert "" not in digests
    other = events("wxyz")
    assert order_digest([(other, Outcome(other[:2]))]) == digests[0]
    assert order_digest([(other, Outcome(other)), (other, Outcome(other[:2]))]) != ""


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 20))])
def test_outcomes_of_one_digest_are_traced_back_alike(seed: int) -> None:
    dice = random.Random(seed)
    given = events("".join(dice.choices("abcdef", k=5)))
    traced: dict[str, tuple[int, list[tuple[int, ...]]]] = {}
    for _ in range(3_000):
        going = [dice.choice([*given, *events("abcdefx")]) for _ in range(dice.randrange(1, 5))]
        outcome = Outcome(going)
        found = len(going), origins(given, outcome, range(len(going)))
        assert traced.setdefault(order_digest([(given, outcome)]), found) == found


def test_of_refusals_one_that_left_a_dead_letter_counts_least_and_those_of_a_step_have() -> None:
    given = [Event(id="a"), Event(id="b")]
    dead = [DeadEvent(given[1], Refusal("b", Code.MIDDLEWARE_ERROR, "died", position=1))]
    made = Outcome([Event(id="a-1"), Event(id="a-2")], dead, origins=[(0,), (0,)])
    stored, lost = (Refusal(f"a-{at}", Code.UNDELIVERED, "no", position=at, letter=at == 0) for at in (0, 1))
    assert [trace_back(given, made, {0: stored, 1: lost})[at].letter for at in (0, 1)] == [False, True]
    assert trace_back(given, made, {0: stored})[0].letter
