"""A canary has its share of the events by key, and costs no other."""

from __future__ import annotations

import asyncio
from typing import Any

from polku import Event, Sampler
from polku.candidate.configuration import Mode, WithCandidate
from polku.contracts import Outcome
from polku.middleware.adapt import as_step
from tests.candidate.hubs import canary, mark, numbered
from tests.middleware.harness import events, ids, refused, work
from tests.support.clock import FakeClock


async def test_a_canary_has_its_share_by_key_and_the_order_stays() -> None:
    step = canary(mark("old"), mark("new"), 0.3, "source")
    sides: dict[str, set[str]] = {}
    for batch in range(5):
        given = [event for number in range(40) for event in events(f"{number}", source=f"s{number}")]
        outcome = await work(step, given, batch)
        assert ids(outcome) == [str(number) for number in range(40)]
        assert outcome.origins == [(number,) for number in range(40)]
        for event in outcome.events:
            sides.setdefault(event.source, set()).add(event.metadata["mark"])
    assert all(len(side) == 1 for side in sides.values())
    assert 4 <= sum(side == {"new"} for side in sides.values()) <= 20
    counts = step.candidate_counts().counts
    assert counts["old"] + counts["new"] == 200


async def test_a_canary_that_fails_costs_its_share_alone() -> None:
    class Raises:
        drop_reason = "filtered"
        name = "raises"

        def process(self, given: list[Event], batch: int) -> Outcome:
            raise RuntimeError("not yet")

        def settled(self, batch: int, refused: frozenset[int]) -> None:
            pass

    step = canary(mark("old"), Raises())
    outcome = await work(step, numbered(40))
    counts = step.candidate_counts().counts
    assert counts["new_refused"] == counts["new"] == len(outcome.refused) > 0
    assert len(outcome.events) == counts["old"] > 0
    assert {dead.refusal.position for dead in outcome.refused} == {int(event_id[1:]) for event_id in refused(outcome)}


async def test_both_sides_of_a_canary_hear_what_became_of_their_events() -> None:
    told: dict[str, list[tuple[int, list[str]]]] = {"old": [], "new": []}

    class Heard:
        drop_reason = "filtered"

        def __init__(self, name: str) -> None:
            self.name = self.side = name
            self.given: dict[int, list[str]] = {}

        async def process(self, given: list[Event], batch: int) -> Outcome:
            self.given[batch] = [event.id for event in given]
            await asyncio.sleep(0)
            return Outcome(given)

        def settled(self, batch: int, refused: frozenset[int]) -> None:
            told[self.side].append((batch, [self.given[batch][at] for at in sorted(refused)]))

    step = canary(Heard("old"), Heard("new"))
    given = numbered(20)
    outcome = await work(step, given, 7)
    assert outcome.events == given
    step.settled(7, frozenset(range(10)))
    gone = sorted(event_id for side in told.values() for batch, names in side for event_id in names)
    assert gone == sorted(f"e{number}" for number in range(10))
    assert [batch for side in told.values() for batch, _ in side] == [7, 7]


def test_an_event_on_which_the_key_raises_stays_with_the_middleware_in_use() -> None:
    def key(event: Event) -> str:
        raise KeyError("tenant")

    choose = WithCandidate(mark("a"), mark("b"), "b", Mode.CANARY, 1.0, key).choice()
    assert not choose(Event(id="a"))


def test_the_share_is_independent_of_that_of_a_sampler_of_the_same_key() -> None:
    kept = as_step(Sampler(0.5, key="id"), FakeClock())
    choose = WithCandidate(mark("a"), mark("b"), "b", Mode.CANARY, 0.5, "id").choice()
    outcome: Any = kept.process(numbered(2_000), 1)  # type: ignore[union-attr]
    assert 0.4 < sum(map(choose, outcome.events)) / len(outcome.events) < 0.6
