"""Changes of a pipeline of actors, without Ray: under load, also where actors die in the middle of one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Hub, Limits, Throttle, Transform
from polku.actors import chained_change, changing, lanes
from polku.actors.actor_factory import ActorFactory
from polku.actors.changes import Changes
from polku.actors.handles import LaneHandles
from polku.actors.nodes import Node, Place
from polku.actors.startup import start_all
from polku.batch.batch import Batch
from polku.errors import ChangeError, MisconfiguredError
from polku.runtime.changing import Changed
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch
from tests.actors import in_process

ARRIVED: dict[str, list[Event]] = {}
CLOSED: set[str] = set()
HELD: set[str] = set()


@dataclass
class Out:
    """A destination that keeps what it gets under its `place`, in order, and takes nothing while that is HELD."""

    place: str
    tag: str = ""
    fails: bool = False

    async def start(self) -> None:
        if self.fails:
            raise OSError("its address is wrong")

    async def emit(self, batch: Batch) -> None:
        while self.place in HELD:  # noqa: ASYNC110 - a test holds it up
            await asyncio.sleep(0.001)
        events = EventPayload.FromString(batch.payload).events
        for event in events:
            event.metadata["by"] = self.tag
        ARRIVED.setdefault(self.place, []).extend(events)

    async def close(self) -> None:
        CLOSED.add(self.tag)


class Running:
    """A pipeline of actors in the event loop of its test."""

    def __init__(self, hub: Hub) -> None:
        plan = hub.plan("ray")
        self.factory = ActorFactory(plan)
        self.changes = Changes(plan, self._note_parts)
        self.changes.begin(self.factory, self._open_lane)
        self.notes = 0
        node = Node("127.0.0.1", "host")
        self._places = [Place(node, number) for number in range(1, plan.lanes + 1)]

    async def _note_parts(self) -> None:
        self.notes += 1

    async def _open_lane(self, lane: LaneHandles, place: Place) -> None:
        await start_all([lane.ingest])

    async def start(self) -> None:
        parts = self.factory.create(self._places)
        await start_all([*parts.behind(), *parts.shared.values()])
        await start_all(lane.ingest for lane in parts.lanes)

    async def stop(self) -> None:
        await self.changes.stop()
        await self.changes.close()
        for actor in in_process.living():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.ensure_future(_closed(actor)), 10.0)
            actor.kill(restart=False)
        await self.changes.forget()

    async def update(self, hub: Hub, seconds: float = 5.0) -> Changed:
        return await self.changes.update(hub.plan("ray"), seconds)

    @property
    def lane(self) -> LaneHandles:
        """The first lane."""
        return self.factory.parts().lanes[0]

    async def send(self, *ids: str, source: str = "s", lane: int = 0) -> Ack:
        """Send events, again where the ingest dies."""
        message = IngestBatch(source=source)
        message.events.events.extend(Event(id=event_id, source=source) for event_id in ids)
        while True:
            try:
                ingest = self.factory.parts().lanes[lane].ingest
                return Ack.FromString(await ingest.submit.remote(message.SerializeToString()))
            except ray.exceptions.RayActorError:
                await asyncio.sleep(0.001)

    async def delivered(self) -> None:
        for lane in self.factory.parts().lanes:
            await lane.buffer.drain_buffer.remote()


async def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds."""
    while not condition():  # noqa: ASYNC110 - it is about the state of parts that have no event for it
        await asyncio.sleep(0.001)


async def _closed(actor: in_process.Actor) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        await actor.close.remote()


@asynccontextmanager
async def running(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    store = in_process.use(monkeypatch)
    monkeypatch.setattr(changing, "_WATCH_SECONDS", 0.001)
    monkeypatch.setattr(chained_change, "_WATCH_SECONDS", 0.001)
    monkeypatch.setattr(lanes, "_WATCH_SECONDS", 0.001)
    monkeypatch.setattr(lanes, "_EMPTY_SECONDS", 0.001)
    for known in (ARRIVED, CLOSED, HELD):
        known.clear()
    pipeline = Running(hub)
    await pipeline.start()
    try:
        yield pipeline
    finally:
        await pipeline.stop()
    assert not store.values


class Flood:
    """Send events one after the other, from some senders in each lane, until `end`."""

    def __init__(self, pipeline: Running, senders: int = 3, lanes: int = 1) -> None:
        self.counts = [0] * senders * lanes
        self._pipeline = pipeline
        self._lanes = lanes
        self._ends = False
        self._sending = [asyncio.ensure_future(self._send(number)) for number in range(senders * lanes)]

    async def _send(self, number: int) -> None:
        while not self._ends:
            ids = [f"{number}-{n:06d}" for n in range(self.counts[number], self.counts[number] + 2)]
            ack = await self._pipeline.send(*ids, source=f"s{number}", lane=number % self._lanes)
            assert list(ack.event_ids) == ids, ack
            self.counts[number] += 2

    async def go_on(self, events: int = 30) -> None:
        """Return when each sender has sent that many more events."""
        wanted = [count + events for count in self.counts]
        while any(count < want for count, want in zip(self.counts, wanted, strict=True)):
            for sending in self._sending:
                if sending.done():
                    sending.result()
            await asyncio.sleep(0.001)

    async def end(self) -> set[str]:
        """Return the ids that were sent, once they are delivered."""
        self._ends = True
        await asyncio.wait_for(asyncio.gather(*self._sending), 30.0)
        await asyncio.wait_for(self._pipeline.delivered(), 30.0)
        return {f"{number}-{n:06d}" for number, count in enumerate(self.counts) for n in range(count)}


def check(sent: Collection[str], got: Sequence[Event], *, may_repeat: bool = False) -> None:
    """Check that what was sent arrived, once, and in the order of each sender."""
    ids = [event.id for event in got]
    assert set(ids) == set(sent), f"{len(set(sent) - set(ids))} are lost"
    if not may_repeat:
        assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} are doubled"
    firsts = list(dict.fromkeys(ids))
    for sender in {event_id.partition("-")[0] for event_id in sent}:
        own = [event_id for event_id in firsts if event_id.startswith(f"{sender}-")]
        assert own == sorted(own)


def tags(got: Sequence[Event], key: str = "tag") -> list[str]:
    """Return the different tags of events, in their order."""
    return list(dict.fromkeys(event.metadata[key] for event in got))


def tagging(tag: str) -> Transform:
    def tag_it(event: Event) -> None:
        event.metadata["tag"] += tag

    return Transform(tag_it)


def chain(*steps: object, out: object = None, lanes: int = 1, **options: Any) -> Hub:
    hub = Hub(runtime="ray")
    for step in steps:
        hub.middleware(step, name=type(step).__name__)
    return hub.emitter(out or Out("out"), name="out", **options).lanes(lanes)


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("lanes", [1, 3])
async def test_middleware_changes_under_load(lanes: int, chained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(tag: str) -> Hub:
        hub = chain(tagging(tag), lanes=lanes)
        return hub.chain() if chained else hub

    async with running(version("0"), monkeypatch) as pipeline:
        flood = Flood(pipeline, lanes=lanes)
        for number in range(1, 5):
            await flood.go_on()
            changed = await pipeline.update(version(str(number)))
            assert changed.difference.named("middleware", changed.difference.parts[-1].verdict.CHANGED) == ["Transform"]
        await flood.go_on()
        check(await flood.end(), ARRIVED["out"])
    for sender in range(3 * lanes):
        own = [event for event in ARRIVED["out"] if event.source == f"s{sender}"]
        assert tags(own) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("lanes", [1, 2])
async def test_state_moves_to_the_actors_that_take_over(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(*steps: object) -> Hub:
        return chain(*steps, lanes=lanes)

    async with running(memory(Deduplicator(ttl=100)), monkeypatch) as pipeline:
        await pipeline.send("a", "b")
        changed = await pipeline.update(memory(Deduplicator(ttl=200), Throttle(0.001, 2)))
        assert "keeps its state" in str(changed.difference)
        await pipeline.send("a", "c", lane=lanes - 1)
        await pipeline.update(memory(Deduplicator(ttl=200), tagging("!"), Throttle(0.001, 3)))
        await pipeline.send("b", "d", "e")
        await pipeline.delivered()
    # The one token that was left after `c` let `d` through, and there was none for `e`.
    assert [event.id for event in ARRIVED["out"]] == ["a", "b", "c", "d"]


async def test_stages_come_and_go_and_those_that_stay_keep_their_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    def divided(*tags: str) -> Hub:
        hub = chain()
        for tag in tags:
            hub.middleware(tagging(tag), isolate=True)
        return hub

    async with running(divided(), monkeypatch) as pipeline:
        flood = Flood(pipeline)
        for tags_ in (["a"], ["a", "b"], ["a", "c"], ["c"], [], ["d", "e", "f"], ["d", "e", "g"]):
            await flood.go_on()
            before = dict(pipeline.lane.stages)
            await pipeline.update(divided(*tags_))
            stages = pipeline.lane.stages
            assert list(stages) == [f"stage-{number}" for number in range(1, len(tags_) + 1)]
        assert stages["stage-1"] is before["stage-1"]
        assert stages["stage-2"] is before["stage-2"]
        assert stages["stage-3"] is not before["stage-3"]
        stages["stage-2"].kill(restart=True)
        pipeline.lane.ingest.kill(restart=True)
        await flood.go_on()
        check(await flood.end(), ARRIVED["out"], may_repeat=True)
        await until(lambda: len([actor for actor in in_process.living() if "stage" in actor.name]) == 3)
    assert tags(ARRIVED["out"]) == ["", "a", "ab", "ac", "c", "def", "deg"]


async def test_an_aggregator_lets_go_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(chain(Aggregator(10, 60.0)), monkeypatch) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: pipeline.lane.stages["stage-1"].current.shell._stage.statistics().held)
        await pipeline.update(chain(tagging("!")))
        assert list((await waiting).event_ids) == ["a"]
        await pipeline.send("b")
        await pipeline.delivered()
    assert [event.metadata["tag"] for event in ARRIVED["out"]] == ["", "!"]


async def test_emitters_are_exchanged_where_the_others_were(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(chain(out=Out("out", "0"), lanes=2), monkeypatch) as pipeline:
        flood = Flood(pipeline, lanes=2)
        for number in range(1, 5):
            await flood.go_on()
            await pipeline.update(chain(out=Out("out", str(number)), lanes=2))
        await flood.go_on()
        sent = await flood.end()
        check(sent, ARRIVED["out"])
        confirmed = [await lane.emitters["out"].statistics.remote() for lane in pipeline.factory.parts().lanes]
        while sum(one.confirmed for one in confirmed) != len(sent):
            confirmed = [await lane.emitters["out"].statistics.remote() for lane in pipeline.factory.parts().lanes]
        await until(lambda: {"0", "1", "2", "3"} <= CLOSED)
    assert tags([event for event in ARRIVED["out"] if event.source == "s0"], "by") == ["0", "1", "2", "3", "4"]


async def test_what_is_in_flight_to_a_dead_destination_goes_to_the_next_emitter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polku.runtime.changing._FLIGHT_SECONDS", 0.01)
    monkeypatch.setattr("polku.buffer.outlet._RELEASE_SECONDS", 0.01)
    async with running(chain(out=Out("dead")), monkeypatch) as pipeline:
        HELD.add("dead")
        sent = [str(number) for number in range(10)]
        for event_id in sent:
            await pipeline.send(event_id)
        changed = await pipeline.update(chain(out=Out("out")))
        assert changed.again["out"] > 0
        await pipeline.delivered()
    assert [event.id for event in ARRIVED["out"]] == sent


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("durable", [False, True])
async def test_emitters_come_and_go_and_get_other_names(
    durable: bool, chained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emitters(*names: tuple[str, str]) -> Hub:
        hub = Hub(runtime="ray")
        for name, formerly in names:
            hub.emitter(Out(formerly or name), name=name, formerly=formerly or None)
        if durable:
            hub.buffer_strategy(BufferStrategy.durable(tmp_path / "j.db"))
        return hub.chain() if chained else hub

    async with running(emitters(("one", "")), monkeypatch) as pipeline:
        await pipeline.send("a")
        await pipeline.update(emitters(("one", ""), ("two", "")))
        HELD.add("two")
        await pipeline.send("b")
        await pipeline.update(emitters(("one", ""), ("three", "two")))
        await pipeline.send("c")
        await pipeline.update(emitters(("one", "")))
        await pipeline.send("d")
        if not chained:
            with pytest.raises(ChangeError, match="an emitter 'three' that is gone still delivers"):
                await pipeline.update(emitters(("one", ""), ("three", "")))
        if durable:
            pipeline.lane.buffer.kill(restart=True)  # what has the journal goes on, also with what leaves
        HELD.clear()
        if chained and durable:  # what an emitter that is gone had left is an orphan of the journal after that
            await pipeline.update(emitters(("one", ""), ("last", "three")))
        await until(lambda: [e.id for e in ARRIVED.get("two", []) + ARRIVED.get("three", [])][:2] == ["b", "c"])
        await pipeline.delivered()
    assert list(dict.fromkeys(event.id for event in ARRIVED["one"])) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h.middleware(Failing()), r"stage-1 does not start: OSError: no such model \(raised by start"),
        (lambda h: h.emitter(Out("two", fails=True), name="two"), "emitter:two does not start: OSError: its address"),
        (lambda h: h.ingestor(Failing(), source="x"), "ingestor 'x' does not start: OSError"),
        (lambda h: h.ack("delivered"), "the level of acknowledgement cannot be changed while"),
        (lambda h: h.lanes("per-node"), "the number of lanes cannot be changed while"),
    ],
)
async def test_what_does_not_start_changes_nothing_and_is_closed(
    change: Callable[[Hub], Hub], reason: str, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(chain(tagging("-old"), lanes=lanes), monkeypatch) as pipeline:
        before = {actor.name for actor in in_process.living()}
        new = change(chain(tagging("-new"), lanes=lanes).emitter(Out("more", "started"), name="started"))
        with pytest.raises(ChangeError, match=reason) as error:
            await pipeline.update(new)
        assert "new       emitter started" in error.value.difference
        assert {actor.name for actor in in_process.living()} == before
        await pipeline.send("a")
        await pipeline.delivered()
        assert ARRIVED["out"][0].metadata["tag"] == "-old"
        await pipeline.update(chain(tagging("-newer"), lanes=lanes))
        await pipeline.send("b")
        await pipeline.delivered()
    assert tags(ARRIVED["out"]) == ["-old", "-newer"]
    assert "more" not in ARRIVED


class Failing:
    """Middleware or ingestor whose `start` fails."""

    def start(self) -> None:
        raise OSError("no such model")

    def process(self, events: list[Event]) -> list[Event]:
        return events

    def ingest(self, data: bytes, context: object) -> Sequence[Event]:
        return []


@pytest.mark.parametrize("chained", [False, True])
async def test_lanes_that_have_changed_are_taken_back_where_another_one_cannot(
    chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(tag: str) -> Hub:
        hub = chain(tagging(tag), out=Out("out", tag), lanes=2).ack("delivered").emitter(Out("other"), name="other")
        if tag == "new":
            hub.emitter(Out("more"), name="more")
        return hub.chain() if chained else hub

    async with running(version("old"), monkeypatch) as pipeline:
        await pipeline.send("a")
        HELD.add("other")
        waiting = asyncio.ensure_future(pipeline.send("b", lane=1))
        reason = "Transform is at work" if chained else "1 batch had no answer within 0.1 s"
        if not chained:
            with pytest.raises(ChangeError, match=f"lane-2/ingest: {reason}"):
                await pipeline.update(version("new"), seconds=0.1)
        HELD.clear()
        await waiting
        await pipeline.send("c")
        await pipeline.send("d", lane=1)
        await pipeline.delivered()
        assert tags(ARRIVED["out"]) == ["old"]
        assert tags(ARRIVED["out"], "by") == ["old"]
        await pipeline.update(version("newer"))
        await pipeline.send("e")
        await pipeline.delivered()
    assert [event.id for event in ARRIVED["out"]] == ["a", "b", "c", "d", "e"]
    assert tags(ARRIVED["out"]) == ["old", "newer"]


async def test_a_version_that_is_unwell_in_the_first_lane_does_not_come_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass
    class Sick(Out):
        async def emit(self, batch: Batch) -> None:
            raise MisconfiguredError("it says no")

    async with running(chain(out=Out("out", "0"), lanes=3), monkeypatch) as pipeline:
        monkeypatch.setattr(changing, "_WATCH_SECONDS", 0.2)
        flood = Flood(pipeline, lanes=3)
        await flood.go_on()
        with pytest.raises(ChangeError, match=r"lane-1/emitter:out is unwell: .*it says no"):
            await pipeline.update(chain(out=Sick("sick", "1"), lanes=3))
        await flood.go_on()
        check(await flood.end(), ARRIVED["out"])


async def test_ingestors_limits_and_rules_change_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(batch_events: int, capacity: int) -> Hub:
        hub = chain().limits(Limits(batch_events=batch_events))
        return hub.buffer_strategy(BufferStrategy.ring(capacity, overflow="drop_newest"))

    async with running(version(10, 5), monkeypatch) as pipeline:
        before = pipeline.factory.parts().all()
        await pipeline.update(version(1, 2))
        assert pipeline.factory.parts().all() == before
        pipeline.lane.ingest.kill(restart=True)
        assert "TOO_MANY" in (await pipeline.send("a", "b")).errors[0].code
        HELD.add("out")
        for event_id in "cd":
            assert (await pipeline.send(event_id)).event_ids
        assert (await pipeline.send("e")).errors[0].code == "BUFFER_FULL"


# What is killed before it began was never awaited, which a process that ends says nothing of.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
async def test_random_changes_while_actors_die(
    seed: int, durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{seed} {durable}")

    def version() -> Hub:
        hub = Hub(runtime="ray")
        for _ in range(chance.randrange(4)):
            hub.middleware(
                tagging(str(chance.randrange(3))), isolate=chance.random() < 0.3, replicas=chance.choice([1, 1, 2])
            )
        if durable:
            hub.buffer_strategy(BufferStrategy.durable(tmp_path / "j.db"))
        for name in ("two", "three"):
            if chance.random() < 0.5:
                hub.emitter(Out(name, str(chance.randrange(3))), name=name)
        return hub.emitter(Out("out", str(chance.randrange(3))), name="out")

    done = 0
    refused: list[str] = []
    async with running(version(), monkeypatch) as pipeline:
        flood = Flood(pipeline)
        for _ in range(25):
            await flood.go_on(4)
            change = asyncio.ensure_future(pipeline.update(version()))
            if chance.random() < 0.6:
                await asyncio.sleep(chance.random() * 0.05)
                kill(pipeline, chance, also_buffer=durable)
            try:
                await change
                done += 1
            except ChangeError as error:
                refused.append(str(error))
        await flood.go_on(4)
        check(await flood.end(), ARRIVED["out"], may_repeat=True)
    assert done > 10, refused
    assert not any("halfway" in reason for reason in refused)


def kill(pipeline: Running, chance: random.Random, *, also_buffer: bool) -> None:
    """Kill an actor that is there, old or new; a buffer in memory would lose what it has acknowledged."""
    victims = [actor for actor in in_process.living() if also_buffer or not actor.name.endswith("/buffer")]
    chance.choice(victims).kill(restart=True)
