"""A drain ends early only where all that is left is in a journal and waits for destinations that take nothing."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from polku.batch.receipt import Receipt
from polku.buffer.statistics import BufferStatistics, OutletStatistics
from polku.emit.delivery import DeliveryStatistics
from polku.gateway.intake_statistics import IntakeStatistics
from polku.runtime import standstill
from polku.runtime.lane import LaneStatistics
from polku.runtime.standstill import Standstill, drain_within

DOWN = "cannot start: ConnectionError: down"


def lane(lags: dict[str, int], faults: dict[str, str], *, unanswered: int = 0, confirmed: int = 0) -> LaneStatistics:
    outlets = {name: OutletStatistics(confirmed, 0, 0, lag, lag, lag) for name, lag in lags.items()}
    emitters = {name: DeliveryStatistics(0, 0, 0, 0, None, fault=faults.get(name, "")) for name in lags}
    intake = IntakeStatistics(9, 9, 9, 0, unanswered, Receipt())
    return LaneStatistics(intake, {}, BufferStatistics(9, 9, 100, 9, 0, 0, 0, outlets), emitters)


def is_reached(*lanes: LaneStatistics) -> bool:
    return Standstill().is_reached(lanes, 100.0)


def test_it_is_reached_where_every_outlet_that_lags_is_in_trouble() -> None:
    assert is_reached(lane({"a": 5, "b": 0}, {"a": DOWN}))
    assert is_reached(lane({"a": 0}, {}), lane({"a": 5}, {"a": DOWN}))
    assert not is_reached(lane({"a": 5, "b": 1}, {"a": DOWN}))
    assert not is_reached(lane({"a": 1}, {}), lane({"a": 5}, {"a": DOWN}))


def test_a_push_that_fails_is_trouble_too() -> None:
    stuck = lane({"a": 5}, {})
    outlets = {"a": replace(stuck.buffer.outlets["a"], fault="MemoryError: no room")}
    assert is_reached(replace(stuck, buffer=replace(stuck.buffer, outlets=outlets)))


def test_nothing_that_lags_is_no_standstill_the_drain_itself_comes_to_its_end() -> None:
    assert not is_reached(lane({"a": 0}, {"a": DOWN}))
    assert not is_reached()  # a part did not answer


def test_messages_without_an_answer_have_a_while_to_get_into_the_journal() -> None:
    still = Standstill()
    waits = lane({"a": 5}, {"a": DOWN}, unanswered=2)
    assert not still.is_reached([waits], 100.0)
    assert not still.is_reached([waits], 102.9)
    moved = lane({"a": 5}, {"a": DOWN}, unanswered=1, confirmed=1)
    assert not still.is_reached([moved], 103.1)
    assert not still.is_reached([moved], 106.0)
    assert still.is_reached([moved], 106.2)


async def test_a_drain_that_ends_is_complete_and_what_it_raises_is_raised() -> None:
    async def drain() -> None:
        pass

    async def fail() -> None:
        raise ValueError("broken")

    assert await drain_within(20, drain(), None)
    with pytest.raises(ValueError, match="broken"):
        await drain_within(20, fail(), None)


async def test_one_that_cannot_end_is_cut_at_its_deadline_or_at_a_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = 0

    async def drain() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled += 1

    looks = [lane({"a": 5}, {}), lane({"a": 5}, {"a": DOWN})]

    async def look() -> list[LaneStatistics]:
        return [looks.pop(0)] if looks else []

    monkeypatch.setattr(standstill, "_LOOK_SECONDS", 0)
    assert not await asyncio.wait_for(drain_within(3_600, drain(), look), 30)
    assert looks == []
    assert not await drain_within(0, drain(), None)
    assert cancelled == 2
