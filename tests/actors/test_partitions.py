"""Middleware that is divided by its key, in a pipeline of actors: without Ray, in one event loop."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Hub, Throttle
from polku.errors import ChangeError
from polku.stage.key_space import KeySpace
from tests.actors import in_process
from tests.actors.under_load import ARRIVED, Flood, Out, Running, running, tagging, until


def divided(step: object, partitions: int, *, lanes: int = 1, before: object = None, **options: Any) -> Hub:
    hub = Hub(runtime="ray").lanes(lanes)
    if before is not None:
        hub.middleware(before)
    return hub.middleware(step, name="it", partitions=partitions, **options).emitter(Out("out"), name="out")


def check(sent: set[str]) -> None:
    """Check that each event arrived, once."""
    counts = Counter(event.id for event in ARRIVED["out"])
    assert sent == set(counts), f"{len(sent - set(counts))} are lost"
    assert max(counts.values()) == 1, f"{sum(count > 1 for count in counts.values())} are doubled"


def parts(pipeline: Running) -> list[str]:
    """Return the names of the partitions, of all lanes."""
    return [name for name in pipeline.factory.parts().all() if "/partition-" in name]


async def deduplicated(pipeline: Running, lane: int) -> int:
    """Return how many duplicates the Acks of a lane speak of."""
    statistics = await pipeline.factory.parts().lanes[lane].ingest.statistics.remote()
    return int(getattr(statistics, "intake", statistics).latest.counts.deduplicated)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("chained", [False, True])
async def test_each_event_passes_one_partition_whichever_lane_it_comes_by(
    lanes: int, chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = divided(Deduplicator(), 3, lanes=lanes, before=tagging("t"))
    async with running(hub.chain() if chained else hub, monkeypatch) as pipeline:
        assert len(parts(pipeline)) == 3
        ids = [f"e{number}" for number in range(60)]
        for number in range(0, 60, 6):
            ack = await pipeline.send(*ids[number : number + 6], lane=number % lanes)
            assert list(ack.event_ids) == ids[number : number + 6]
        for lane in range(lanes):
            ack = await pipeline.send(*ids, lane=lane)  # a duplicate is answered as what it repeats
            assert list(ack.event_ids) == ids
            assert await deduplicated(pipeline, lane) == 60 * (lane + 1)
        received = [
            (await handle.statistics.remote()).received
            for name, handle in pipeline.factory.parts().all().items()
            if "/partition-" in name
        ]
        await pipeline.delivered()
    assert sum(received) == 60 * (1 + lanes)
    assert all(received)
    check(set(ids))


async def test_duplicates_that_come_by_two_lanes_at_once_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(divided(Deduplicator(), 3, lanes=2), monkeypatch) as pipeline:
        ids = [f"e{number}" for number in range(100)]
        acks = await asyncio.gather(*(pipeline.send(*ids, lane=number % 2) for number in range(6)))
        assert all(list(ack.event_ids) == ids for ack in acks)
        await pipeline.delivered()
    check(set(ids))


class Counting:
    """Number the events of each source; what it knows may move, also between partitions."""

    name = "Counting"
    state_key = "source"
    state_form = "counts 1"

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails
        self._counts: dict[str, int] = {}

    def process(self, events: list[Event]) -> list[Event]:
        for event in events:
            self._counts[event.source] = self._counts.get(event.source, 0) + 1
            event.metadata["count"] = str(self._counts[event.source])
        return events

    def snapshot(self) -> dict[str, int]:
        return self._counts

    def restore(self, state: dict[str, int]) -> None:
        if self._fails:
            raise OSError("it is not to be had")
        self._counts = dict(state)

    def split_state(self, state: dict[str, int], parts: int, partition_of: Any) -> list[dict[str, int]]:
        return [{key: count for key, count in state.items() if partition_of(key) == part} for part in range(parts)]

    def merge_states(self, states: Sequence[Mapping[str, int]]) -> dict[str, int]:
        return {key: count for state in states for key, count in state.items()}


class Forgetting(Counting):
    """Number the events of each source; nobody knows how its state is divided."""

    split_state = None  # type: ignore[assignment]


def check_counts(sent: set[str]) -> None:
    """Check that each source's events were counted without a gap, in their order: the state was there all the time."""
    check(sent)
    for source in {event.source for event in ARRIVED["out"]}:
        own = [event for event in ARRIVED["out"] if event.source == source]
        assert [event.id for event in own] == sorted(event.id for event in own)
        assert [int(event.metadata["count"]) for event in own] == list(range(1, len(own) + 1))


@pytest.mark.parametrize("partitions", [1, 3])
async def test_what_lanes_share_asks_for_something_as_ray_places_what_needs_nothing_anywhere(
    partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(divided(Deduplicator(), partitions, lanes=2), monkeypatch) as pipeline:
        shared = pipeline.factory.parts().shared
        asked = [options for name, options in in_process.OPTIONS.items() if "lane-" not in name and "/stage-" in name]
        assert len(asked) == len(shared) == partitions
        assert all(options["memory"] for options in asked)


@pytest.mark.parametrize("lanes", [1, 2])
async def test_the_number_of_partitions_changes_under_load(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(divided(Counting(), 2, lanes=lanes), monkeypatch) as pipeline:
        flood = Flood(pipeline, senders=6, lanes=lanes)
        await flood.go_on()
        for number, before in ((4, 2), (3, 4), (1, 3), (2, 1)):
            changed = await pipeline.update(divided(Counting(), number, lanes=lanes))
            assert f"changed   partitions it: {number} (was {before})" in str(changed.difference)
            assert "starts empty" not in str(changed.difference)
            assert len(parts(pipeline)) == (number if number > 1 else 0)
            await flood.go_on()
        check_counts(await flood.end())


async def test_what_was_seen_is_known_to_other_partitions_and_to_more_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"e{number}" for number in range(50)]
    async with running(divided(Deduplicator(ttl=100), 1), monkeypatch) as pipeline:
        await pipeline.send(*ids)
        for partitions, lanes in ((3, 1), (5, 2), (5, 1), (2, 3), (1, 1)):
            await pipeline.update(divided(Deduplicator(ttl=100 + partitions), partitions, lanes=lanes))
            await until(lambda lanes=lanes: len(pipeline.factory.parts().lanes) == lanes)  # type: ignore[misc]
            await pipeline.send(*ids, lane=lanes - 1)
        await pipeline.delivered()
    check(set(ids))


async def test_what_is_durable_is_known_after_deaths_also_in_the_middle_of_a_change_of_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)

    def version(partitions: int) -> Hub:
        hub = divided(Deduplicator(durable=True), partitions, lanes=2)
        return hub.buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))

    sent: list[str] = []
    async with running(version(2), monkeypatch) as pipeline:
        for turn, partitions in enumerate((3, 1, 4, 2, 5)):
            fresh = [f"{turn}-{number}" for number in range(30)]
            await pipeline.send(*fresh)
            sent += fresh
            change = asyncio.ensure_future(pipeline.update(version(partitions)))
            await asyncio.sleep(chance.random() * 0.02)
            kill_shared(pipeline)
            await asyncio.gather(change, return_exceptions=True)  # a change that a death has ended was taken back
            kill_shared(pipeline)
            await pipeline.send(*sent, lane=turn % 2)
        await pipeline.delivered()
    check(set(sent))
    async with running(version(3), monkeypatch) as pipeline:
        await pipeline.send(*sent, "new")
        await pipeline.delivered()
        assert [event.id for event in ARRIVED["out"]] == ["new"]


def kill_shared(pipeline: Running) -> None:
    for actor in pipeline.factory.parts().shared.values():
        if actor.current.shell._started:
            actor.kill(restart=True)


async def test_the_difference_says_where_state_cannot_be_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(divided(Forgetting(), 2), monkeypatch) as pipeline:
        await pipeline.send("a")
        changed = await pipeline.update(divided(Forgetting(), 3))
        assert "changed   middleware it: its stage gets a new actor: starts empty" in str(changed.difference)
        await pipeline.send("b")
        await pipeline.delivered()
    assert [event.metadata["count"] for event in ARRIVED["out"]] == ["1", "1"]


async def test_a_change_that_fails_leaves_partitions_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(divided(Counting(), 2, lanes=2), monkeypatch) as pipeline:
        flood = Flood(pipeline, senders=6, lanes=2)
        await flood.go_on()
        with pytest.raises(ChangeError, match="the state of it cannot be moved: OSError: it is not to be had"):
            await pipeline.update(divided(Counting(fails=True), 4, lanes=2))
        assert len(parts(pipeline)) == 2
        await flood.go_on()
        await pipeline.update(divided(Counting(), 4, lanes=2))
        await flood.go_on()
        check_counts(await flood.end())


async def test_partitions_that_die_under_load_and_changes_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    async with running(divided(Throttle(1e9), 3, lanes=2), monkeypatch) as pipeline:
        flood = Flood(pipeline, senders=6, lanes=2)
        for number in (2, 4):
            await flood.go_on()
            name = chance.choice(parts(pipeline))
            pipeline.factory.parts().all()[name].kill(restart=True)
            await flood.go_on()
            await pipeline.update(divided(Throttle(1e9), number, lanes=2), seconds=20.0)
        check(await flood.end())
    for source in {event.source for event in ARRIVED["out"]}:
        ids = [event.id for event in ARRIVED["out"] if event.source == source]
        assert ids == sorted(ids)


async def test_a_partition_that_is_away_holds_up_its_own_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(divided(Throttle(1e9), 3, lanes=2), monkeypatch) as pipeline:
        space = KeySpace(3)
        sources = {space.partition_of(f"s{number}"): f"s{number}" for number in range(30)}
        away = pipeline.factory.parts().all()[parts(pipeline)[1]]
        away.kill(restart=False)
        waiting = [asyncio.ensure_future(pipeline.send(f"w{n}", source=sources[1], lane=n % 2)) for n in range(20)]
        async with asyncio.timeout(30):
            for number in range(100):
                for part in (0, 2):
                    await pipeline.send(f"e{number}-{part}", source=sources[part], lane=number % 2)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
    assert len(ARRIVED["out"]) == 200


async def test_groups_are_whole_whichever_partition_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Aggregator(4, within=60, key=lambda event: event.source)
    async with running(divided(step, 3, lanes=2), monkeypatch) as pipeline:
        sends = [pipeline.send(f"{n}-{lane}", source=f"s{n % 10}", lane=lane) for n in range(20) for lane in (0, 1)]
        acks = await asyncio.wait_for(asyncio.gather(*sends), 30)  # each group is complete
        assert all(len(ack.event_ids) == 1 for ack in acks)
        await pipeline.delivered()
    assert Counter(event.source for event in ARRIVED["out"]) == {f"s{n}": 1 for n in range(10)}
    assert {event.metadata["polku.aggregate.count"] for event in ARRIVED["out"]} == {"4"}


async def test_an_event_on_which_the_key_raises_goes_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(event: Event) -> str:
        if event.id == "bad":
            raise ValueError("no key")
        return event.source

    async with running(divided(Aggregator(1, within=60, key=key), 3), monkeypatch) as pipeline:
        ack = await asyncio.wait_for(pipeline.send("a", "bad", "b"), 30)
        assert list(ack.event_ids) == ["a", "bad", "b"]
        await pipeline.delivered()
    assert sum("no key" in event.metadata["polku.aggregate.error"] for event in ARRIVED["out"]) == 1


async def test_partitions_behind_partitions_and_replicas_behind_these(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(runtime="ray").lanes(2).middleware(Deduplicator(), partitions=3)
    hub.middleware(Throttle(1e9), partitions=2).middleware(tagging("t"), replicas=2).emitter(Out("out"), name="out")
    async with running(hub, monkeypatch) as pipeline:
        flood = Flood(pipeline, senders=6, lanes=2)
        await flood.go_on()
        names = [link.name for actor in in_process.living() for link in actor.current.links]
        check(await asyncio.wait_for(flood.end(), 60))
    assert sorted(names) == sorted(set(names))  # or a receiver takes them for lives of one link
