"""The ScheduleSource, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from polku import Event, Hub, PlanError, ScheduleSource, Source, Tick
from polku import schedule as schedule_module
from polku.clock import SystemClock
from polku.contracts import Pulled
from polku.errors import RecordError
from tests.support.clock import FakeClock
from tests.support.recorder import Recorder


@pytest.fixture(autouse=True)
def _short_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_module, "_LONGEST_SLEEP", 0.005)


class Stream:
    """The way in: it keeps what it gets, and answers at once unless it is held."""

    def __init__(self) -> None:
        self.records: list[Pulled] = []
        self.open = asyncio.Event()
        self.open.set()

    async def push(self, records: Sequence[Pulled]) -> Any:
        self.records += records
        return self.open.wait()

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]


class Schedule:
    """A running source, its clock and its stream."""

    def __init__(self, config: ScheduleSource) -> None:
        self.clock = FakeClock(start_ns=1_000_000_000_000)
        self.stream = Stream()
        self.source = config.build(self.clock)
        self.task = asyncio.create_task(self.source.run(lambda *_, **__: self.stream))

    @classmethod
    async def begin(cls, config: ScheduleSource) -> Schedule:
        """Return one that waits for its first tick."""
        schedule = cls(config)
        await schedule.settle(lambda: False)
        return schedule

    async def move(self, seconds: float) -> None:
        """Let time pass, and the source see it."""
        self.clock.advance(seconds)
        await self.settle(lambda: False)

    async def settle(self, until: Callable[[], bool], rounds: int = 20) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0.001)
            if until():
                return

    async def wait_for(self, count: int) -> list[Pulled]:
        async with asyncio.timeout(30):
            while len(self.stream.records) < count:  # noqa: ASYNC110 - the clock has no events
                await asyncio.sleep(0.001)
        return self.stream.records

    async def end(self) -> None:
        await self.source.drain()
        await self.task


async def test_ticks_come_at_the_multiples_of_the_interval_with_the_same_ids_in_every_process() -> None:
    config = ScheduleSource(10.0, offset=3.0, payload=b"x", metadata={"a": "b"})
    schedules = [await Schedule.begin(config) for _ in range(2)]
    for schedule in schedules:
        await schedule.move(2.9)
        assert schedule.stream.records == []
        await schedule.move(0.2)
        (record,) = await schedule.wait_for(1)
        assert isinstance(record.content, Event)
        assert (record.content.event_type, record.content.payload) == ("schedule.tick", b"x")
        assert record.content.metadata == {"a": "b"}
        assert record.time_ns == 1_003_000_000_000
        await schedule.move(10.0)
        await schedule.wait_for(2)
    first, second = (schedule.stream.ids for schedule in schedules)
    assert first == second == ["schedule-1003000", "schedule-1013000"]
    for schedule in schedules:
        await schedule.end()


async def test_ticks_that_the_pipeline_cannot_take_are_skipped_and_counted() -> None:
    schedule = await Schedule.begin(ScheduleSource(timedelta(seconds=1)))
    schedule.stream.open.clear()
    await schedule.move(1.0)
    await schedule.wait_for(1)
    await schedule.move(3.5)
    assert len(schedule.stream.records) == 1
    schedule.stream.open.set()
    await schedule.wait_for(2)
    assert schedule.stream.ids == ["schedule-1001000", "schedule-1004000"]
    await schedule.end()
    assert schedule.source.state().text == "2 ticks, 2 skipped, 2 records"


async def test_a_function_makes_the_events_sync_or_async() -> None:
    async def pull(tick: Tick) -> list[Event]:
        await asyncio.sleep(0)
        return [Event(id="own"), Event(event_type=f"tick {tick.number}"), Event()]

    schedule = await Schedule.begin(ScheduleSource(1.0, pull, name="poll"))
    await schedule.move(1.0)
    records = await schedule.wait_for(3)
    assert schedule.stream.ids == ["poll-1001000", "poll-1001000-1", "poll-1001000-2"]
    assert isinstance(records[1].content, Event)
    assert records[1].content.event_type == "tick 1001"
    await schedule.end()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda tick: 1 / 0, "make: ZeroDivisionError"),
        (lambda tick: ["text"], "it must return an event, events, or None"),
        (lambda tick: asyncio.sleep(3_600), "make: it took more than 0.01 s"),
    ],
)
async def test_a_function_that_fails_makes_a_dead_letter_and_is_called_again(make: Any, reason: str) -> None:
    failing = True
    schedule = await Schedule.begin(ScheduleSource(1.0, lambda tick: make(tick) if failing else None, timeout=0.01))
    await schedule.move(1.0)
    (record,) = await schedule.wait_for(1)
    assert isinstance(record.content, RecordError)
    assert reason in record.content.message
    assert reason in schedule.source.state().alarm
    failing = False
    await schedule.move(1.0)
    await schedule.settle(lambda: not schedule.source.state().alarm, 3_000)
    assert schedule.source.state().alarm == ""
    assert len(schedule.stream.records) == 1
    await schedule.end()


async def test_a_clock_that_is_set_back_does_not_stop_the_schedule() -> None:
    schedule = await Schedule.begin(ScheduleSource(1.0))
    await schedule.move(1.0)
    await schedule.wait_for(1)
    schedule.clock.advance(-500.0)
    await schedule.move(1.0)
    async with asyncio.timeout(30):
        while len(schedule.stream.records) < 2:
            schedule.clock.advance(0.2)
            await asyncio.sleep(0.01)
    assert int(schedule.stream.ids[1].partition("-")[2]) < 600_000
    assert schedule.source.state().text.startswith("2 ticks, 0 skipped")
    await schedule.end()


def test_it_runs_in_a_pipeline(tmp_path: Path) -> None:
    out = Recorder(tmp_path / "out")
    with Hub(runtime="inline").source(ScheduleSource(0.05)).emitter(out).start() as pipeline:
        one, two, *_ = out.wait_for(2)
        assert pipeline.stop(30).complete
    assert (one.event_type, one.source) == ("schedule.tick", "schedule")
    assert two.timestamp_unix_ns - one.timestamp_unix_ns == 50_000_000
    assert time.time_ns() - one.timestamp_unix_ns < 300 * 1_000_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every=0\): must be a number above 0"),
        ({"every": 5e-324}, r"every=5e-324\): must be a number of seconds from 0\.001 to"),
        ({"every": 1e300}, r"every=1e\+300\): must be a number of seconds from 0\.001 to 3\.1536e\+09"),
        ({"every": 1.0, "offset": 1.0}, "must be a number of seconds, less than every"),
        ({"every": 1.0, "make": "now"}, "must be a function of the tick"),
        ({"every": 1.0, "payload": "text"}, "must be bytes"),
        ({"every": 1.0, "metadata": {"a": 1}}, "metadata: .*must be texts by name"),
        ({"every": 1.0, "name": ""}, "must be a text, not empty"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ScheduleSource(**options)


def test_it_keeps_the_contract_of_sources() -> None:
    assert isinstance(ScheduleSource(1.0).build(SystemClock()), Source)
