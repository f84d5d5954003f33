"""Replicas of stages come and go while a pipeline of actors runs under load: without Ray, in one event loop."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest
import ray

from polku import Deduplicator, Event, Hub
from polku.actors import asking, resizing
from polku.actors.changes import GaveWayError
from polku.errors import ChangeError
from tests.actors import in_process
from tests.actors.under_load import ARRIVED, HELD, Flood, Out, Running, check, running, tagging, tags, until

AT_WORK: set[int] = set()
"""The steps that have events in hand."""


@dataclass
class Work:
    """Take a moment for each event, or until it is not HELD."""

    name: str = "work"
    fails: bool = False

    async def start(self) -> None:
        if self.fails or f"start {self.name}" in HELD:
            raise OSError("its model cannot be loaded")

    async def process(self, events: list[Event]) -> list[Event]:
        AT_WORK.add(id(self))
        await asyncio.sleep(0.004)
        while self.name in HELD:  # noqa: ASYNC110 - a test holds it up
            await asyncio.sleep(0.001)
        AT_WORK.discard(id(self))
        return events


class Spread(Flood):
    """Senders of different paces, so that their messages travel in batches of their own."""

    async def _send(self, number: int) -> None:
        while not self._ends:
            await asyncio.sleep(0.0007 * (number % 5))
            event_id = f"{number}-{self.counts[number]:06d}"
            ack = await self._pipeline.send(event_id, source=f"s{number}", lane=number % self._lanes)
            assert list(ack.event_ids) == [event_id], ack
            self.counts[number] += 1


def hub(*, shape: str = "plain", replicas: object = (1, 6), step: Work | None = None) -> Hub:
    made = Hub(runtime="ray").emitter(Out("out"), name="out")
    if shape in ("behind a stage", "chained behind a stage"):
        made.middleware(tagging("first"), isolate=True)
    if shape in ("in lanes", "behind a shared stage"):
        made.lanes(2)
    if shape == "behind a shared stage":
        made.middleware(Deduplicator(ttl=600))
    if shape == "behind partitions":
        made.middleware(Deduplicator(ttl=600), partitions=3)
    made.middleware(step or Work(), name="work", replicas=replicas)  # type: ignore[arg-type]
    if shape == "two in a row":
        made.middleware(Work("more"), name="more", replicas=(1, 5), num_cpus=1)
    if shape == "chained in the middle":
        made.middleware(tagging("last"))
    return made.chain() if shape.startswith("chained") else made


def replicas(pipeline: Running) -> list[str]:
    return [part for part in pipeline.factory.parts().all() if "/replica-" in part]


def stage_of(pipeline: Running, name: str = "work") -> str:
    stages = pipeline.changes.plan.stages
    return next(stage.name for stage in stages if any(step.name == name for step in stage.middleware))


async def hold_up(replicas: int) -> None:
    """Have a number of replicas hold a batch each: try again while all messages have come to one of them."""
    AT_WORK.clear()
    while len(AT_WORK) < replicas:
        HELD.discard("work")
        await asyncio.sleep(0.005)
        HELD.add("work")
        await asyncio.sleep(0.05)


async def received(pipeline: Running) -> list[int]:
    handles = pipeline.factory.parts().all()
    return [(await handles[part].statistics.remote()).received for part in replicas(pipeline)]


QUICK = ["plain", "behind a shared stage", "chained in the middle", "behind partitions"]
SLOW = ["behind a stage", "in lanes", "two in a row", "chained", "chained behind a stage"]
SHAPES = [*QUICK, *SLOW]


@pytest.mark.parametrize("shape", [*QUICK, *(pytest.param(shape, marks=pytest.mark.slow) for shape in SLOW)])
async def test_replicas_come_and_go_under_load(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(hub(shape=shape), monkeypatch) as pipeline:
        lanes = pipeline.changes.plan.lanes
        flood = Spread(pipeline, senders=8, lanes=lanes)
        await flood.go_on(5)
        names = [name for name in ("work", "more") if shape == "two in a row" or name == "work"]
        for count in (3, 1, 2):
            for name in names:
                await pipeline.changes.resize(stage_of(pipeline, name), count, 30.0)
            await flood.go_on(5)
            assert len(replicas(pipeline)) == count * lanes * len(names)
            assert pipeline.changes.plan.stages[-1 if shape != "chained in the middle" else -2].replicas == count
        check(await flood.end(), ARRIVED["out"])
    left = [actor.name for actor in in_process.living()]
    assert not left


async def test_actors_of_replicas_that_are_gone_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(hub(), monkeypatch) as pipeline:
        before = len(in_process.living())
        await pipeline.changes.resize("stage-1", 4, 30.0)
        assert len(in_process.living()) == before + 3
        await pipeline.changes.resize("stage-1", 1, 30.0)
        await until(lambda: len(in_process.living()) == before)
        await pipeline.changes.resize("stage-1", 2, 30.0)
        assert sorted(replicas(pipeline)) == ["stage-1/replica-1", "stage-1/replica-2"]


@pytest.mark.parametrize("shape", ["plain", "behind a stage", "chained"])
async def test_what_comes_behind_a_later_change_is_not_done(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, tuple[Any, ...]]] = []

    async def ask(part: str, method: Any, *arguments: Any, **options: Any) -> Any:
        if len(arguments) == 2:
            asked.append((method, arguments))
        return await told(part, method, *arguments, **options)

    told = asking.ask
    monkeypatch.setattr(resizing, "ask", ask)
    async with running(hub(shape=shape), monkeypatch) as pipeline:
        await pipeline.changes.resize(stage_of(pipeline), 2, 5.0)
        before = list(asked)
        await pipeline.changes.resize(stage_of(pipeline), 3, 5.0)
        assert [await method.remote(*arguments) for method, arguments in before] == [0] * len(before)
        flood = Spread(pipeline, senders=8)
        async with asyncio.timeout(30):
            await hold_up(3)  # all three have work
        HELD.clear()
        check(await flood.end(), ARRIVED["out"])


async def test_one_that_does_not_start_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(hub(), monkeypatch) as pipeline:
        flood = Spread(pipeline)
        await flood.go_on(5)
        before = {actor.name for actor in in_process.living()}
        HELD.add("start work")
        with pytest.raises(ChangeError, match=r"stage-1/replica-2 does not start: .*its model cannot be loaded"):
            await pipeline.changes.resize("stage-1", 3, 30.0)
        HELD.clear()
        await flood.go_on(5)
        assert {actor.name for actor in in_process.living()} == before
        assert pipeline.changes.plan.stages[0].replicas == 1
        await pipeline.changes.resize("stage-1", 3, 30.0)
        await flood.go_on(5)
        check(await flood.end(), ARRIVED["out"])


async def test_one_that_has_no_room_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(hub(), monkeypatch) as pipeline:
        monkeypatch.setattr(in_process, "PENDING", {"replica-2"})
        with pytest.raises(ChangeError, match=r"stage-1/replica-2 did not answer within 0\.2 s"):
            await pipeline.changes.resize("stage-1", 2, 0.2)
        assert replicas(pipeline) == ["stage-1/replica-1"]


async def test_what_waits_for_room_gives_way_to_another_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(hub(), monkeypatch) as pipeline:
        monkeypatch.setattr(in_process, "PENDING", {"replica-2"})
        waiting = asyncio.ensure_future(pipeline.changes.resize("stage-1", 2, 100.0))
        await until(lambda: any("replica-2" in actor.name for actor in in_process.living()))
        await pipeline.changes.give_way()
        with pytest.raises(GaveWayError, match="gave way"):
            await waiting
        assert not any("replica-2" in actor.name for actor in in_process.living())
        await pipeline.send("a")
        await pipeline.delivered()
    assert [event.id for event in ARRIVED["out"]] == ["a"]


async def test_one_that_is_to_go_and_does_not_end_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_END_SECONDS", 0.1)
    async with running(hub(replicas=(2, 6)), monkeypatch) as pipeline:
        flood = Spread(pipeline, senders=8)
        await flood.go_on(5)
        await hold_up(2)
        with pytest.raises(ChangeError, match=r"replicas of stage-1 that were to go still had \d batch"):
            await pipeline.changes.resize("stage-1", 1, 30.0)
        assert len(replicas(pipeline)) == 2
        HELD.clear()
        await flood.go_on(5)
        before = await received(pipeline)
        while not all(later > earlier for later, earlier in zip(await received(pipeline), before, strict=True)):
            await flood.go_on(1)
        check(await flood.end(), ARRIVED["out"])


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 30))])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what died before it began
async def test_whatever_dies_meanwhile_nothing_is_lost_or_out_of_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer in memory loses what it holds when it dies, so that one, or a chained lane, does not die here."""
    chance = random.Random(seed)
    shape = chance.choice([shape for shape in SHAPES if not shape.startswith("chained")])

    def version(tag: str) -> Hub:
        return hub(shape=shape).middleware(tagging(tag))

    async with running(version("0"), monkeypatch) as pipeline:
        flood = Spread(pipeline, senders=6, lanes=pipeline.changes.plan.lanes)
        await flood.go_on(5)
        changes = 0
        for number in range(5):
            if chance.random() < 0.3:
                resizing = asyncio.ensure_future(pipeline.update(version(str(number))))
            else:
                resizing = asyncio.ensure_future(pipeline.changes.resize(stage_of(pipeline), chance.randint(1, 5), 5.0))
            for _ in range(chance.choice([0, 1, 3])):
                await asyncio.sleep(chance.random() * 0.02)
                victims = [actor for actor in in_process.living() if "/buffer" not in actor.name]
                ray.kill(chance.choice(victims), no_restart=False)  # type: ignore[arg-type]
            try:
                await resizing
                changes += 1
            except ChangeError:
                pass
            await flood.go_on(2)
        check(await flood.end(), ARRIVED["out"], may_repeat=True)
    assert changes


async def test_what_comes_asks_for_what_was_asked_for_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Ray's autoscaler, to which an actor that finds no room is a demand, gets nodes that have it."""
    needs: dict[str, object] = {"num_cpus": 2.0, "num_gpus": 0.5, "resources": {"disk": 1.0}}
    made = Hub(runtime="ray").emitter(Out("out"), name="out").lanes(min=1, max=4)
    made.middleware(Work(), name="work", replicas=(1, 6), labels={"zone": "a"}, **needs)  # type: ignore[arg-type]
    async with running(made, monkeypatch) as pipeline:
        await pipeline.changes.resize("stage-1", 2, 30.0)
        await pipeline.changes.update(pipeline.changes.plan.with_lanes(2), 30.0)
        await pipeline.changes.resize("stage-1", 3, 30.0)
        asked = [dict(options) for name, options in in_process.OPTIONS.items() if "/replica-" in name]
    assert len(asked) == 6
    for options in asked:
        del options["namespace"]
        assert options == {**needs, "label_selector": {"zone": "a"}}


async def test_other_changes_find_the_replicas_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(hub(shape="behind a stage"), monkeypatch) as pipeline:
        flood = Spread(pipeline, senders=6)
        await pipeline.changes.resize(stage_of(pipeline), 3, 30.0)
        later = hub(shape="behind a stage", replicas=(2, 6)).plan("ray")
        await pipeline.changes.update(later.with_replicas("stage-2", 3), 30.0)
        assert len(replicas(pipeline)) == 3
        await flood.go_on(5)
        await pipeline.changes.resize(stage_of(pipeline), 4, 30.0)
        await pipeline.changes.update(later.with_replicas("stage-2", 4).with_lanes(2), 30.0)
        assert len(replicas(pipeline)) == 8
        await pipeline.send("x", lane=1)
        await flood.go_on(5)
        sent = await flood.end()
        check({*sent, "x"}, ARRIVED["out"])
    assert tags(ARRIVED["out"]) == ["first"]
