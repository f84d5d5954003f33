"""A shadow works on a share of the events, holds up nothing, and nothing of it arrives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polku import Batching, Deduplicator, Event, Filter, Hub
from polku.candidate import thread
from polku.candidate.configuration import Mode, WithCandidate
from polku.monitoring.stage_statistics import CandidateStatistics
from polku.pipeline import Pipeline
from tests.candidate.hubs import mark, new, numbered


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
