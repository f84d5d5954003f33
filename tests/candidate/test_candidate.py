"""Middleware as a candidate: how it is declared, compared and put in the place of what it was next to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polku import Aggregator, Batching, Deduplicator, Event, Hub, PlanError, RateLimiter, Transform
from polku.batch.receipt import Refusal
from polku.candidate.comparison import Made, Result, compare, made_of
from polku.candidate.configuration import Mode, WithCandidate
from polku.codes import Code
from polku.contracts import DeadEvent, Outcome
from tests.candidate.hubs import made, mark, numbered


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (lambda hub: hub.middleware(mark("b"), shadow=0.1), "shadow= needs the middleware in use before it"),
        (lambda hub: hub.middleware(mark("a")).middleware(mark("b"), shadow=2), "middleware(shadow=2): must be"),
        (lambda hub: hub.middleware(mark("a")).middleware(mark("b"), shadow=0.1, canary=0.1), "not both"),
        (lambda hub: hub.middleware(mark("a")).middleware(mark("b"), key="source"), "says nothing without shadow="),
        (lambda hub: hub.middleware(mark("a")).middleware(mark("b"), shadow=0.1, of="c"), "of='c' is no middleware"),
        (
            lambda hub: hub.middleware(mark("a")).middleware(mark("b"), shadow=0.1, key="tenant"),
            "middleware(key='tenant'): must be",
        ),
        (lambda hub: hub.middleware(mark("a")).middleware(mark("b"), shadow=0.1, replicas=2), "leave num_cpus"),
        (
            lambda hub: hub.middleware(mark("a")).middleware(mark("b"), shadow=0.1).middleware(mark("c"), canary=0.1),
            "marked has shadow marked of 10 % by id next to it already",
        ),
        (lambda hub: hub.middleware(Aggregator(2, within=1)).middleware(mark("b"), shadow=0.1), "holds events back"),
        (lambda hub: hub.middleware(mark("a")).middleware(RateLimiter(1), canary=0.1), "remembers events by pipeline"),
        (
            lambda hub: hub.middleware(mark("a")).middleware(lambda given: None, canary=0.1, batching=Batching()),
            "needs batching= for both",
        ),
    ],
)
def test_what_cannot_be_is_said_at_once(add: Callable[[Hub], Hub], reason: str) -> None:
    with pytest.raises(PlanError) as error:
        add(Hub(runtime="inline"))
    assert reason in str(error.value)


OLD = Event(id="a", payload=b"1", metadata={"k": "1", "l": "2"})


@pytest.mark.parametrize(
    ("old", "fresh", "result", "text"),
    [
        (made(OLD), made(OLD), Result.SAME, ""),
        (made(), made(), Result.SAME, ""),
        (made(refused="x"), made(refused="y"), Result.SAME, ""),
        (made(OLD), made(Event(id="b", metadata={"l": "2", "m": "1"})), Result.DIFFERENT,
         "id, metadata.k, metadata.m, payload"),
        (made(OLD), made(), Result.DROPPED, "the new one alone drops it"),
        (made(), made(OLD), Result.DROPPED, "the one in use alone drops it"),
        (made(OLD), made(OLD, OLD), Result.DIFFERENT, "1 event of the one in use, 2 of the new one"),
        (made(OLD), made(refused="new: ValueError: no"), Result.FAILED, "new: ValueError: no"),
        (made(refused="old: no"), made(OLD), Result.DIFFERENT, "the one in use alone refuses it: old: no"),
    ],
)  # fmt: skip
def test_what_two_made_of_an_event_is_compared(old: Made, fresh: Made, result: Result, text: str) -> None:
    assert compare(old, fresh) == (result, text)


def test_what_became_of_an_event_is_found_whatever_a_step_says_of_it() -> None:
    given = numbered(4)
    kept = Outcome([given[1], given[3]], kept=bytes([0, 1, 0, 1]))
    assert [one.events for one in made_of(given, kept, [0, 3])] == [(), (given[3].SerializeToString(),)]
    dead = DeadEvent(given[2], Refusal("e2", Code.MIDDLEWARE_ERROR, "no", position=2))
    seen = Outcome([given[0], given[3]], [dead])
    found = made_of(given, seen, [1, 2, 3])
    assert found == [Made(), Made(refused="no"), Made((given[3].SerializeToString(),))]


def test_what_middleware_keeps_beside_a_journal_has_a_place_for_each_of_the_two() -> None:
    durable = Deduplicator(durable=True)
    both: Any = WithCandidate(durable, durable, "new", Mode.SHADOW, 0.5).beside
    placed = both("journal.db", "once")
    assert [part.durable for part in placed.middleware_parts] == [
        "journal.db.once.ids", "journal.db.once-shadow.ids"
    ]  # fmt: skip
    assert WithCandidate(Transform(mark("a")), durable, "new", Mode.SHADOW, 0.5).beside is not None
    assert WithCandidate(mark("a"), mark("b"), "new", Mode.SHADOW, 0.5).beside is None
