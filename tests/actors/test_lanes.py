"""Lanes come and go while a pipeline of actors runs under load: without Ray, in one event loop."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Hub
from polku.actors import lanes as lanes_module
from polku.actors.handles import LaneHandles
from polku.actors.kept import kept_farewell
from polku.actors.lanes import missing
from polku.actors.nodes import LanePlace, Node
from polku.actors.ports import check_shared
from polku.batch.batch import Batch
from polku.errors import ChangeError, MisconfiguredError, UnavailableError
from polku.gateway.addresses import Addresses, Doors
from polku.v1.gateway_pb2 import Ack, IngestBatch
from tests.actors.under_load import ARRIVED, HELD, Flood, Out, Running, chain, running, tagging, tags, until


class Roaming(Flood):
    """Senders that turn to another lane where theirs takes nothing, until `end`."""

    def __init__(self, pipeline: Running, senders: int = 6) -> None:
        super().__init__(pipeline, senders)

    async def _send(self, number: int) -> None:
        turn = number
        while not self._ends:
            message = IngestBatch(source=f"s{number}")
            message.events.events.append(Event(id=f"{number}-{self.counts[number]:06d}", source=f"s{number}"))
            taking = self._pipeline.factory.parts().taking
            try:
                lane = taking[turn % len(taking)]
                ack = Ack.FromString(await lane.ingest.submit.remote(message.SerializeToString()))
            except (UnavailableError, ray.exceptions.RayActorError):
                turn += 1
                await asyncio.sleep(0.001)
                continue
            assert len(ack.event_ids) == 1, ack
            self.counts[number] += 1


def names(pipeline: Running) -> list[str]:
    return [lane.name for lane in pipeline.factory.parts().lanes]


async def are(pipeline: Running, *wanted: str) -> None:
    """Return when these are the lanes."""
    async with asyncio.timeout(30):
        await until(lambda: names(pipeline) == list(wanted))


def check(sent: set[str], got: list[Event]) -> None:
    """Check that what was sent arrived, once."""
    ids = [event.id for event in got]
    assert set(ids) == sent, f"{len(sent - set(ids))} are lost"
    assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} are doubled"


@pytest.mark.parametrize("chained", [False, True])
async def test_lanes_come_and_go_under_load(chained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(lanes: int, tag: str) -> Hub:
        hub = chain(tagging(tag), lanes=lanes)
        return hub.chain() if chained else hub

    async with running(version(1, "a"), monkeypatch) as pipeline:
        flood = Roaming(pipeline)
        await flood.go_on()
        changed = await pipeline.update(version(3, "a"))
        assert "changed   lanes: 3 (was 1)" in str(changed.difference)
        assert names(pipeline) == ["lane-1/", "lane-2/", "lane-3/"]
        await flood.go_on()
        await pipeline.update(version(3, "b"))
        await flood.go_on()
        changed = await pipeline.update(version(2, "c"))
        assert "lanes: 2 (was 3); those that are gone deliver what waits for them, and end" in str(changed.difference)
        await are(pipeline, "lane-1/", "lane-2/")
        await flood.go_on()
        await pipeline.update(version(1, "c"))
        await are(pipeline, "lane-1/")
        await flood.go_on()
        await pipeline.update(version(2, "d"))
        await flood.go_on()
        check(await flood.end(), ARRIVED["out"])
    for sender in range(6):
        assert set(tags([event for event in ARRIVED["out"] if event.source == f"s{sender}"])) <= set("abcd")
    assert set(tags(ARRIVED["out"])) == set("abcd")


async def test_each_new_lane_takes_events(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(chain(), monkeypatch) as pipeline:
        await pipeline.update(chain(lanes=3))
        for lane in range(3):
            assert (await pipeline.send(str(lane), lane=lane)).event_ids == [str(lane)]
        await pipeline.delivered()
    assert sorted(event.id for event in ARRIVED["out"]) == ["0", "1", "2"]


async def test_what_one_lane_knows_all_know_when_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(lanes: int) -> Hub:
        return chain(tagging("t"), Deduplicator(ttl=100), lanes=lanes)

    async with running(version(1), monkeypatch) as pipeline:
        await pipeline.send("a", "b")
        await pipeline.update(version(2))
        await pipeline.send("a", "c", lane=1)
        await pipeline.send("b", "c", "d", lane=0)
        await pipeline.update(version(1))
        await are(pipeline, "lane-1/")
        await pipeline.send("a", "b", "c", "d", "e")
        await pipeline.update(version(3))
        await pipeline.send("d", "e", "f", lane=2)
        await pipeline.delivered()
    assert sorted(event.id for event in ARRIVED["out"]) == ["a", "b", "c", "d", "e", "f"]


async def test_what_lanes_make_together_goes_to_one_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(lanes: int) -> Hub:
        return chain(Aggregator(4, within=60, key=lambda event: "all"), lanes=lanes)

    async with running(version(2), monkeypatch) as pipeline:

        async def flush() -> None:  # a joined batch is answered when the last of its events leaves
            while True:
                for stage in pipeline.factory.parts().shared.values():
                    await stage.flush.remote()
                await asyncio.sleep(0.02)

        flushing = asyncio.ensure_future(flush())
        flood = Roaming(pipeline, senders=9)
        await flood.go_on(10)
        await pipeline.update(version(1))
        await are(pipeline, "lane-1/")
        await flood.go_on(10)
        sent = await flood.end()
        flushing.cancel()
    parts = [int(event.metadata["polku.aggregate.count"] or 1) for event in ARRIVED["out"]]
    assert sum(parts) == len(sent)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_lane_that_goes_stays_a_part_until_its_destination_has_everything(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(lanes: int, tag: str = "") -> Hub:
        hub = chain(tagging(tag), lanes=lanes)
        return hub.buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db"))) if durable else hub

    async with running(version(2), monkeypatch) as pipeline:
        HELD.add("out")
        await pipeline.send("a", lane=0)
        await pipeline.send("b", "c", lane=1)
        await pipeline.update(version(1))
        leaving = pipeline.factory.parts().lanes[1]
        assert leaving.leaving
        with pytest.raises(UnavailableError, match="another lane"):
            await leaving.ingest.submit.remote(b"")
        with pytest.raises(ChangeError, match="lane-2 is gone, and still delivers what waits for it"):
            await pipeline.update(version(2))
        await pipeline.update(version(1, "changed"))  # it takes part in other changes
        assert names(pipeline) == ["lane-1/", "lane-2/"]
        HELD.clear()
        await are(pipeline, "lane-1/")
        await pipeline.update(version(2))
        await pipeline.send("d", lane=1)
        await pipeline.delivered()
        assert pipeline.changes.gone["out"].delivered == 2
    assert sorted(event.id for event in ARRIVED["out"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("chained", [False, True])
async def test_a_lane_that_leaves_takes_nothing_either_after_a_death(
    chained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(lanes: int) -> Hub:
        hub = chain(lanes=lanes).buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))
        return hub.chain() if chained else hub

    async with running(version(2), monkeypatch) as pipeline:
        HELD.add("out")
        await pipeline.send("a", lane=1)
        await pipeline.update(version(1))
        leaving = pipeline.factory.parts().lanes[1]
        async with asyncio.timeout(30):
            await until(lambda: kept_farewell(leaving.ingest.name).drains)
        leaving.ingest.kill(restart=True)
        message = IngestBatch(source="s")
        message.events.events.append(Event(id="b", source="s"))
        with pytest.raises(UnavailableError, match="another lane"):  # or it would be acknowledged, and never delivered
            await leaving.ingest.submit.remote(message.SerializeToString())
        assert leaving.ingest.current.shell.intake.draining
        assert await leaving.ingest.introduce.remote(None, Doors("127.0.0.1:0")) == Addresses()
        HELD.clear()
        await are(pipeline, "lane-1/")
    assert [event.id for event in ARRIVED["out"]] == ["a"]


async def test_lanes_that_do_not_start_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(lanes: int, tag: str) -> Hub:
        return chain(Once() if tag == "bad" else tagging(tag), lanes=lanes)

    async with running(version(1, "a"), monkeypatch) as pipeline:
        Once.starts = 1
        with pytest.raises(ChangeError, match=r"does not start: OSError: only one may run"):
            await pipeline.update(version(3, "bad"))
        assert names(pipeline) == [""]
        await pipeline.send("a")
        await pipeline.update(version(2, "b"))
        await pipeline.send("b", lane=1)
        await pipeline.delivered()
    assert sorted((event.id, event.metadata["tag"]) for event in ARRIVED["out"]) == [("a", "a"), ("b", "b")]


class Once:
    """Middleware of which only the first few instances start."""

    starts = 1

    def start(self) -> None:
        if Once.starts <= 0:
            raise OSError("only one may run")
        Once.starts -= 1

    def process(self, events: list[Event]) -> list[Event]:
        return events


@pytest.mark.parametrize("before", [1, 2])
async def test_a_lane_that_is_unhealthy_goes_again_and_so_do_those_before_it(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(chain(tagging("a"), Deduplicator(ttl=100), lanes=before), monkeypatch) as pipeline:
        opened: list[int] = []

        async def open_lane(lane: LaneHandles, place: LanePlace) -> None:
            if len(opened) == 1:
                raise MisconfiguredError("its port cannot be had")
            opened.append(lane.number)
            await Running._open_lane(pipeline, lane, place)
            assert (await pipeline.send("x", lane=-1)).event_ids == ["x"]

        monkeypatch.setattr(pipeline.changes._lanes, "_open_lane", open_lane)
        await pipeline.send("a")
        with pytest.raises(MisconfiguredError, match="its port cannot be had"):
            await pipeline.update(chain(tagging("b"), Deduplicator(ttl=100), lanes=before + 2))
        wanted = [f"lane-{number}/" for number in range(1, before + 1)]
        await are(pipeline, *wanted)
        await pipeline.send("a", "b")
        await pipeline.update(chain(tagging("c"), Deduplicator(ttl=100), lanes=before))
        await pipeline.send("a", "c")
        await pipeline.delivered()
    found = {event.id: event.metadata["tag"] for event in ARRIVED["out"]}
    assert found == {"a": "a", "x": "b", "b": "a", "c": "c"}
    assert len(ARRIVED["out"]) == 4


@dataclass
class Sick(Out):
    """A destination that refuses to take anything while its place is HELD."""

    async def emit(self, batch: Batch) -> None:
        if self.place in HELD:
            raise MisconfiguredError("it says no")
        await super().emit(batch)


async def test_lanes_that_go_come_back_where_another_one_turns_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(lanes: int) -> Hub:
        return chain(out=Sick("sick"), lanes=lanes)

    async with running(version(3), monkeypatch) as pipeline:
        monkeypatch.setattr(lanes_module, "_WATCH_SECONDS", 0.3)
        flood = Roaming(pipeline)
        await flood.go_on()
        changing = asyncio.ensure_future(pipeline.update(version(1)))
        async with asyncio.timeout(30):
            await until(lambda: pipeline.factory.parts().lanes[2].leaving)
        HELD.add("sick")
        with pytest.raises(ChangeError, match=r"lane-[12]/emitter:out became unhealthy when lane-[23]/ingest took no"):
            await changing
        HELD.clear()
        assert not any(lane.leaving for lane in pipeline.factory.parts().lanes)
        await flood.go_on()
        for lane in range(3):
            pipeline.factory.parts().lanes[lane].ingest.kill(restart=True)  # or what it knows would be its own
            assert (await pipeline.send(f"9-{lane}", lane=lane)).event_ids == [f"9-{lane}"]
        await pipeline.update(version(1))
        await are(pipeline, "lane-1/")
        sent = await flood.end()
    check(sent | {"9-0", "9-1", "9-2"}, ARRIVED["sick"])


@pytest.mark.parametrize("before", [1, 2])
async def test_a_lane_that_dies_starts_again_beside_the_journals_of_others(
    before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(lanes: int) -> Hub:
        return chain(lanes=lanes).buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))

    async with running(version(before), monkeypatch) as pipeline:
        HELD.add("out")
        if before == 1:
            await pipeline.update(version(2))
        await pipeline.send("a", lane=1)
        if before == 2:
            await pipeline.update(version(1))
        pipeline.lane.buffer.kill(restart=True)
        await asyncio.wait_for(pipeline.send("b"), 30)
        HELD.clear()
        await pipeline.delivered()
    assert sorted(event.id for event in ARRIVED["out"]) == ["a", "b"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
@pytest.mark.parametrize("kind", ["actors", "chained", "shared"])
async def test_random_numbers_of_lanes_while_actors_die(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{seed} {kind}")

    def version(lanes: int | None = None) -> Hub:
        steps: list[object] = [tagging(chance.choice("ab"))] if kind != "chained" else []
        steps += [Deduplicator(ttl=600)] if kind == "shared" and chance.random() < 0.8 else []
        hub = chain(*steps, lanes=lanes or chance.randrange(1, 5))
        hub.buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))
        return hub.chain() if kind == "chained" else hub

    done = 0
    refused: list[str] = []
    async with running(version(), monkeypatch) as pipeline:
        flood = Roaming(pipeline)
        for _ in range(12):
            await flood.go_on(2)
            change = asyncio.ensure_future(pipeline.update(version()))
            if chance.random() < 0.6:
                await asyncio.sleep(chance.random() * 0.05)
                kill_started(pipeline, chance)
            try:
                await asyncio.wait_for(change, 60)
                done += 1
            except ChangeError as error:
                refused.append(str(error))
        await pipeline.update(version(1))
        async with asyncio.timeout(60):
            await until(lambda: len(names(pipeline)) == 1)
        await flood.go_on(2)
        sent = await flood.end()
    assert {event.id for event in ARRIVED["out"]} >= sent, f"{sorted(sent - {e.id for e in ARRIVED['out']})} are lost"
    assert done >= 4, refused
    assert not any("halfway" in reason for reason in refused)


def kill_started(pipeline: Running, chance: random.Random) -> None:
    """Kill a part; not while it is opened or closed: the end of a process leaves no lock behind then, as this would."""
    victims = [actor for actor in pipeline.factory.parts().all().values() if actor.current.shell._started]
    if victims:
        chance.choice(victims).kill(restart=True)


async def test_a_stop_drains_lanes_that_leave_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(chain(lanes=2), monkeypatch) as pipeline:
        HELD.add("out")
        await pipeline.send("a", lane=1)
        await pipeline.update(chain(lanes=1))
        await pipeline.changes.stop()
        HELD.clear()
        await pipeline.delivered()
        assert len(pipeline.factory.parts().lanes) == 2
        assert [event.id for event in ARRIVED["out"]] == ["a"]


def test_lanes_share_no_unix_socket() -> None:
    plan = chain().plan("ray")
    check_shared(Doors("127.0.0.1:1"), plan, plan.with_lanes(2))
    check_shared(Doors("unix:/gateway"), plan.with_lanes(2), plan)
    with pytest.raises(ChangeError, match="lanes cannot share unix:/gateway"):
        check_shared(Doors("unix:/gateway"), plan, plan.with_lanes(2))


def test_new_lanes_take_the_places_that_are_free() -> None:
    node = Node("127.0.0.1", "host")

    def lane(number: int, *, leaving: bool = False) -> tuple[LaneHandles, LanePlace]:
        handles: Any = (None, {}, None, {}, "", False, "", leaving)
        return LaneHandles(f"lane-{number}/", number, *handles), LanePlace(node, number)

    assert missing([lane(1), lane(3)], 4) == [2, 4]
    assert missing([lane(1), lane(2)], 1) == []
    assert missing([lane(1), lane(2, leaving=True)], 1) == []
    with pytest.raises(ChangeError, match="lane-2 is gone, and still delivers"):
        missing([lane(1), lane(2, leaving=True)], 2)
