"""Changes of a pipeline of actors, without Ray: under load, also where actors die in the middle of one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.exceptions import ActorUnavailableError

from polku import Aggregator, BufferStrategy, Deduplicator, Event, Hub, Limits, Throttle
from polku.actors import changing, lane_change
from polku.batch.batch import Batch
from polku.errors import ChangeError, MisconfiguredError
from tests.actors import in_process
from tests.actors.under_load import (
    ARRIVED,
    CLOSED,
    HELD,
    Flood,
    Out,
    Running,
    chain,
    check,
    running,
    tagging,
    tags,
    until,
)


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


async def test_a_lane_that_cannot_be_told_to_send_again_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network is cut in the middle of a change for longer than that waits for an answer."""
    is_cut, remote = [True], in_process._Method.remote

    def cut(method: in_process._Method, *arguments: object, **options: object) -> in_process.Ref:
        if method._name == "resume" and is_cut[0]:
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            answer.set_exception(ActorUnavailableError("the network is cut", bytes(16)))
            return in_process.Ref(answer)
        return remote(method, *arguments, **options)

    def version(tag: str) -> Hub:
        return chain(tagging(tag), out=Out("out", tag)).ack("delivered")

    async with running(version("old"), monkeypatch) as pipeline:
        monkeypatch.setattr(in_process._Method, "remote", cut)
        monkeypatch.setattr(lane_change, "_RESUME_SECONDS", 0.2)
        HELD.add("out")
        first = asyncio.ensure_future(pipeline.send("a"))
        await asyncio.sleep(0.05)
        with pytest.raises(ChangeError, match=r"1 batch had no answer within 0\.1 s"):
            await pipeline.update(version("new"), seconds=0.1)
        HELD.clear()
        await first
        second = asyncio.ensure_future(pipeline.send("b"))
        with pytest.raises(ChangeError, match="ingest has not answered since a change failed"):
            await pipeline.update(version("new"))
        is_cut[0] = False
        await asyncio.wait_for(second, 30)
        await until(lambda: not pipeline.changes._silent)
        await pipeline.update(version("newer"))
        await pipeline.send("c")
        await pipeline.delivered()
    assert [event.id for event in ARRIVED["out"]] == ["a", "b", "c"]
    assert tags(ARRIVED["out"]) == ["old", "newer"]


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


async def test_a_version_that_is_unhealthy_in_the_first_lane_does_not_come_to_the_others(
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
        with pytest.raises(ChangeError, match=r"lane-1/emitter:out is unhealthy: .*it says no"):
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
