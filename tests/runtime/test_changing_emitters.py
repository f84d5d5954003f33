"""Emitters and the outlets of the buffer come, go and are exchanged while a pipeline runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from polku import BufferStrategy, Hub
from polku.buffer.journal_reader import JournalReader
from polku.errors import ChangeError
from polku.runtime import changing
from tests.runtime.changes import Flood, Out, Running, hub, running, until


async def test_an_emitter_that_is_exchanged_goes_on_where_the_first_was() -> None:
    arrived: list[str] = []
    first = Out(arrived, "x")
    async with running(hub(out=first)) as pipeline:
        flood = Flood(pipeline)
        for tag in "yxyx":
            await flood.go_on()
            await pipeline.update(hub(out=Out(arrived, tag)))
        await flood.go_on()
        sent = await flood.end()
        assert pipeline.runtime._lane.statistics().emitters["out"].confirmed == len(sent)
    assert [event_id[1:] for event_id in arrived] == [str(number) for number in sent]
    assert {event_id[0] for event_id in arrived} == {"x", "y"}
    assert first.closed


async def test_what_is_in_flight_to_a_dead_destination_goes_to_the_next_emitter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polku.runtime.changing._FLIGHT_SECONDS", 0.01)
    monkeypatch.setattr("polku.buffer.outlet._RELEASE_SECONDS", 0.01)
    arrived: list[str] = []
    dead = Out(arrived, "dead", is_open=False)
    async with running(hub(out=dead)) as pipeline:
        for number in range(10):
            await pipeline.send(str(number))
            await asyncio.sleep(0)
        await until(lambda: dead.calls)
        changed = await pipeline.update(hub(out=Out(arrived, "")))
        assert changed.again["out"] > 0
        await pipeline.delivered()
    assert arrived == [str(number) for number in range(10)]


async def test_an_emitter_that_is_gone_delivers_what_it_has_and_gets_nothing_more() -> None:
    arrived: list[str] = []
    late: list[str] = []
    leaving = Out(late, is_open=False)
    async with running(hub(out=Out(arrived)).emitter(leaving, name="late")) as pipeline:
        await pipeline.send("a")
        await pipeline.update(hub(out=Out(arrived)))
        await pipeline.send("b")
        with pytest.raises(ChangeError, match="an emitter 'late' that is gone still delivers"):
            await pipeline.update(hub(out=Out(arrived)).emitter(leaving, name="late"))
        leaving.opened.set()
        await until(lambda: "late" not in pipeline.emitters and leaving.closed)
    assert arrived == ["a", "b"]
    assert late == ["a"]


async def test_what_an_emitter_that_is_gone_could_not_deliver_is_lost_and_counted() -> None:
    pipeline = Running(hub(out=Out([])).emitter(Out([], is_open=False), name="late"))
    await pipeline.runtime.start()
    await pipeline.send("a")
    await pipeline.update(hub(out=Out([])))
    report = await pipeline.runtime.stop(0.05)
    assert report.lost == {"late": 1}


@pytest.mark.parametrize("durable", [False, True])
async def test_an_emitter_that_is_renamed_gets_what_waits_for_it(durable: bool, tmp_path: Path) -> None:
    arrived: list[str] = []
    shut = Out(arrived, is_open=False)

    def named(name: str, out: Out, **options: Any) -> Hub:
        chain = Hub(runtime="inline").emitter(out, name=name, **options)
        return chain.buffer_strategy(BufferStrategy.durable(tmp_path / "j.db")) if durable else chain

    async with running(named("old", shut)) as pipeline:
        await pipeline.send("a")
        await pipeline.update(named("new", shut, formerly="old"))
        await pipeline.send("b")
        assert list(pipeline.runtime._lane.statistics().emitters) == ["new"]
        shut.opened.set()
        await pipeline.delivered()
        await pipeline.send("c")
        await pipeline.delivered()
    assert arrived == ["a", "b", "c"]
    if durable:
        journal = JournalReader(tmp_path / "j.db")
        assert [(outlet.name, outlet.events) for outlet in journal.outlets()] == [("new", 0)]
        journal.close()


async def test_outlets_of_a_journal_come_and_go(tmp_path: Path) -> None:
    first: list[str] = []
    second: list[str] = []

    def chain(*, two: bool) -> Hub:
        strategy = BufferStrategy.durable(tmp_path / "j.db")
        one = Hub(runtime="inline").buffer_strategy(strategy).emitter(Out(first), name="one")
        return one.emitter(Out(second), name="two") if two else one

    async with running(chain(two=False)) as pipeline:
        await pipeline.send("a")
        for _ in range(3):
            await pipeline.update(chain(two=True))
            await pipeline.send("b")
            await pipeline.update(chain(two=False))
            await until(lambda: "two" not in pipeline.emitters)
        await pipeline.send("c")
        await pipeline.delivered()
    journal = JournalReader(tmp_path / "j.db")
    assert [(outlet.name, outlet.events, outlet.orphaned) for outlet in journal.outlets()] == [("one", 0, False)]
    assert journal.statistics().events == 0
    journal.close()
    assert first == ["a", "b", "b", "b", "c"]
    assert second == ["b"] * 3


async def test_what_waits_in_a_journal_is_there_after_changes_and_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "_FLIGHT_SECONDS", 0.05)
    arrived: list[str] = []

    def chain(name: str, out: Out, **options: Any) -> Hub:
        strategy = BufferStrategy.durable(tmp_path / "j.db")
        return Hub(runtime="inline").buffer_strategy(strategy).emitter(out, name=name, **options)

    pipeline = Running(chain("a", Out([], is_open=False)))
    await pipeline.runtime.start()
    await pipeline.send("1")
    await pipeline.update(chain("b", Out([], is_open=False), formerly="a"))
    await pipeline.send("2")
    await pipeline.update(chain("b", Out([], "x", is_open=False)).emitter(Out([], is_open=False), name="c"))
    await pipeline.send("3")
    await pipeline.runtime.stop(0.05)
    async with running(chain("b", Out(arrived)).emitter(Out(arrived, "c"), name="c")) as pipeline:
        await pipeline.delivered()
    assert [event_id for event_id in arrived if "c" not in event_id] == ["1", "2", "3"]
    assert [event_id for event_id in arrived if "c" in event_id] == ["c3"]


async def test_rules_of_outlets_change_in_place() -> None:
    shut = Out([], is_open=False)

    def chain(strategy: BufferStrategy) -> Hub:
        return hub(out=shut).buffer_strategy(strategy)

    async with running(chain(BufferStrategy.ring(2))) as pipeline:
        await pipeline.send("a", "b")
        waiting = asyncio.ensure_future(pipeline.send("c"))
        done, _ = await asyncio.wait([waiting], timeout=0.02)
        assert not done
        await pipeline.update(chain(BufferStrategy.ring(4)))
        assert list((await waiting).event_ids) == ["c"]
        await pipeline.update(chain(BufferStrategy.ring(3, overflow="drop_newest")))
        assert (await pipeline.send("d")).errors[0].code == "BUFFER_FULL"
        shut.opened.set()
