"""New middleware next to the one in use: what it makes of a share of the events is compared, or continues."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polku import (
    Aggregator,
    Batching,
    Deduplicator,
    Event,
    Filter,
    Hub,
    PlanError,
    RateLimiter,
    Sampler,
    Transform,
    new_event,
)
from polku.batch.receipt import Refusal
from polku.candidate import thread
from polku.candidate.comparison import Made, Result, compare, made_of
from polku.candidate.configuration import Mode, WithCandidate
from polku.codes import Code
from polku.contracts import DeadEvent, Outcome
from polku.middleware.adapt import as_step
from polku.monitoring.statistics import CandidateStatistics
from polku.pipeline import Pipeline
from tests.middleware.harness import events, ids, refused, work
from tests.support.clock import FakeClock


def mark(text: str) -> Callable[[Event], None]:
    def marked(event: Event) -> None:
        event.metadata["mark"] = text

    return marked


def numbered(count: int, **options: Any) -> list[Event]:
    return [new_event("order", id=f"e{number}", **options) for number in range(count)]


@asynccontextmanager
async def running(*add: Callable[[Hub], Hub], got: list[Event]) -> AsyncIterator[Pipeline]:
    """Run middleware on the inline runtime; `got` has what arrives."""
    hub = Hub(runtime="inline")
    for one in add:
        hub = one(hub)
    async with hub.emitter(lambda batch: got.extend(batch.events), name="out").start() as pipeline:
        yield pipeline


def candidate_of(pipeline: Pipeline) -> CandidateStatistics:
    (lane,) = pipeline.statistics().lanes
    (stage,) = lane.stages.values()
    (found,) = stage.candidates
    return found


async def counted(pipeline: Pipeline, count: int) -> CandidateStatistics:
    """Return how the two compare, once that many events have been looked at."""
    async with asyncio.timeout(30):
        while sum((found := candidate_of(pipeline)).counts.values()) < count:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.005)
    return found


def new(event: Event) -> Event | None:
    """Do as `mark("old")` does, apart from events with some numbers."""
    match event.id[-1]:
        case "1":
            event.metadata["mark"] = "new"
            event.payload = b"more"
        case "2":
            raise ValueError("no twos")
        case _:
            event.metadata["mark"] = "old"
    return event


async def test_a_shadow_works_on_a_share_of_the_events_and_nothing_of_it_arrives() -> None:
    got: list[Event] = []
    async with running(
        lambda hub: hub.middleware(mark("old"), name="mark"), lambda hub: hub.middleware(new, shadow=1.0), got=got
    ) as pipeline:
        await pipeline.sender().send_async(numbered(20))
        found = await counted(pipeline, 20)
    assert [(event.id, event.metadata["mark"], event.payload) for event in got] == [
        (f"e{number}", "old", b"") for number in range(20)
    ]
    assert (found.mode, found.middleware, found.candidate, found.share) == ("shadow", "mark", "new", 1.0)
    assert dict(found.counts) == {"same": 16, "different": 2, "dropped": 0, "failed": 2, "skipped": 0}
    assert [(one.event_id, one.result, one.text) for one in found.latest] == [
        ("e12", "failed", "new: ValueError: no twos"),
        ("e11", "different", "metadata.mark, payload"),
        ("e2", "failed", "new: ValueError: no twos"),
        ("e1", "different", "metadata.mark, payload"),
    ]


async def test_a_shadow_is_told_from_what_it_drops_and_knows_the_share_by_the_key() -> None:
    got: list[Event] = []
    async with running(
        lambda hub: hub.middleware(Filter(lambda event: event.id != "e3"), name="filter"),
        lambda hub: hub.middleware(mark("x"), name="mark"),
        lambda hub: hub.middleware(
            Filter(lambda event: event.id not in ("e3", "e4")), shadow=0.5, of="filter", key="source"
        ),
        got=got,
    ) as pipeline:
        sender = pipeline.sender()
        for number in range(12):
            await sender.send_async(numbered(6, source=f"s{number}"))
        chosen = len(
            {
                one
                for number in range(12)
                if WithCandidate(mark("x"), mark("x"), "", Mode.SHADOW, 0.5, "source").choice()(
                    Event(source=(one := f"s{number}"))
                )
            }
        )
        found = await counted(pipeline, 6 * chosen)
    assert 0 < chosen < 12
    assert dict(found.counts) == {"same": 5 * chosen, "different": 0, "dropped": chosen, "failed": 0, "skipped": 0}
    assert len(got) == 60


async def test_a_shadow_that_blocks_holds_up_nothing_and_what_it_could_not_see_is_counted() -> None:
    got: list[Event] = []
    free = threading.Event()

    def block(event: Event) -> None:
        free.wait(30)

    try:
        async with running(
            lambda hub: hub.middleware(mark("old"), name="mark"), lambda hub: hub.middleware(block, shadow=1.0), got=got
        ) as pipeline:
            sender = pipeline.sender()
            for _ in range(30):
                await sender.send_async(numbered(100))
            found = await counted(pipeline, 1_000)
            async with asyncio.timeout(30):  # the shadow still blocks, and all of them arrive
                while len(got) < 3_000:  # noqa: ASYNC110 - the emitter counts
                    await asyncio.sleep(0.005)
            assert found.counts["skipped"] >= 1_900
            assert found.seconds > 0
            free.set()
            found = await counted(pipeline, 3_000)
            assert found.counts["different"] == 3_000 - found.counts["skipped"]
    finally:
        free.set()


async def test_a_shadow_that_hangs_is_given_up_and_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "_CALL_SECONDS", 0.01)
    got: list[Event] = []

    class Hangs:
        async def process(self, given: list[Event]) -> list[Event]:
            await asyncio.sleep(3_600)
            return given

    async with running(
        lambda hub: hub.middleware(mark("old"), name="mark"), lambda hub: hub.middleware(Hangs(), shadow=1.0), got=got
    ) as pipeline:
        await pipeline.sender().send_async(numbered(3))
        found = await counted(pipeline, 3)
    assert (found.counts["failed"], len(got)) == (3, 3)
    assert "did not return within 0.01 s" in found.latest[0].text


async def test_a_shadow_that_does_not_start_is_said_to_and_the_pipeline_runs() -> None:
    got: list[Event] = []

    class Broken:
        async def start(self) -> None:
            raise OSError("no such model")

        def process(self, given: list[Event]) -> list[Event]:
            return given

    async with running(
        lambda hub: hub.middleware(mark("old"), name="mark"), lambda hub: hub.middleware(Broken(), shadow=1.0), got=got
    ) as pipeline:
        async with asyncio.timeout(30):
            while not candidate_of(pipeline).fault:  # noqa: ASYNC110 - a thread says it
                await asyncio.sleep(0.005)
        await pipeline.sender().send_async(numbered(3))
        found = await counted(pipeline, 3)
        assert pipeline.health().healthy
    assert (found.counts["skipped"], len(got)) == (3, 3)
    assert found.fault == "does not start: OSError: no such model"


async def test_models_have_shadows_and_canaries() -> None:
    got: list[Event] = []

    def model(label: str) -> Callable[[list[Event]], Sequence[Mapping[str, str]]]:
        return lambda given: [{"class": label} for _ in given]

    for options in ({"shadow": 0.5}, {"canary": 0.5}):
        got.clear()
        async with running(
            lambda hub: hub.middleware(model("old"), batching=Batching(max_wait=0.0), name="model"),
            lambda hub, options=options: hub.middleware(  # type: ignore[misc]
                model("new"), batching=Batching(max_wait=0.0), name="model 2", **options
            ),
            got=got,
        ) as pipeline:
            await pipeline.sender().send_async(numbered(100))
            found = await counted(pipeline, 30)
        assert [event.id for event in got] == [f"e{number}" for number in range(100)]
        labels = [event.metadata["class"] for event in got]
        if "shadow" in options:
            assert set(labels) == {"old"}
            assert found.counts["different"] == sum(found.counts.values())
        else:
            assert found.counts["old"] == labels.count("old")
            assert found.counts["new"] == labels.count("new") > 0


def canary(old: object, fresh: object, share: float = 0.5, key: Any = "id") -> Any:
    return as_step(WithCandidate(old, fresh, "fresh", Mode.CANARY, share, key), FakeClock())


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


def made(*made_events: Event, refused: str = "") -> Made:
    return Made(tuple(event.SerializeToString() for event in made_events), refused)


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


async def test_a_shadow_comes_to_a_running_pipeline_and_takes_the_place_of_what_it_was_next_to() -> None:
    got: list[Event] = []

    def out(batch: Any) -> None:
        got.extend(batch.events)

    def hub(*, ttl: float, shadow: float | None = None) -> Hub:
        made = Hub(runtime="inline").middleware(Deduplicator(ttl=ttl if shadow is None else 300), name="once")
        if shadow is not None:
            made.middleware(Deduplicator(ttl=ttl), shadow=shadow)
        return made.emitter(out, name="out")

    async with hub(ttl=300).start() as pipeline:
        sender = pipeline.sender()
        await sender.send_async(numbered(2))
        changed = await pipeline.update(hub(ttl=600, shadow=1.0))
        note = "shadow Deduplicator of 100 % by id; keeps its state"
        assert str(changed.difference).startswith(f"changed   middleware once: {note}")
        await sender.send_async(numbered(4))
        found = await counted(pipeline, 4)
        assert dict(found.counts) == {"same": 2, "different": 0, "dropped": 2, "failed": 0, "skipped": 0}
        changed = await pipeline.update(hub(ttl=600))
        note = "without shadow Deduplicator of 100 % by id; keeps its state"
        assert str(changed.difference).startswith(f"changed   middleware once: {note}")
        await sender.send_async(numbered(5))
    assert [event.id for event in got] == [f"e{number}" for number in range(5)]


def test_what_middleware_keeps_beside_a_journal_has_a_place_for_each_of_the_two() -> None:
    durable = Deduplicator(durable=True)
    both: Any = WithCandidate(durable, durable, "new", Mode.SHADOW, 0.5).beside
    placed = both("journal.db", "once")
    assert [part.durable for part in placed.middleware_parts] == [
        "journal.db.once.ids", "journal.db.once-shadow.ids"
    ]  # fmt: skip
    assert WithCandidate(Transform(mark("a")), durable, "new", Mode.SHADOW, 0.5).beside is not None
    assert WithCandidate(mark("a"), mark("b"), "new", Mode.SHADOW, 0.5).beside is None
