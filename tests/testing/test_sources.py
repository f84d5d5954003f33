"""A source that keeps the contract passes the suite, and the suite finds what is wrong with one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from polku import Event, RecordError
from polku.contracts import Pulled, PulledStream, SourceState
from polku.errors import DrainingError
from polku.testing import Origin, OriginAbility, assert_source, check_source, source_checks


class Shelf(Origin):
    """Records in memory."""

    abilities = OriginAbility.COMMITS | OriginAbility.AWAY
    window = 20
    fault = ""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.position = 0
        self.is_there = False

    async def start(self) -> None:
        self.is_there = True

    async def stop(self) -> None:
        self.is_there = False

    async def kill(self) -> None:
        self.is_there = False

    def source(self) -> ShelfSource:
        return ShelfSource(self, self.fault)

    async def put(self, texts: Sequence[str]) -> None:
        self.texts += texts

    async def committed(self) -> int:
        return self.position


class ShelfSource:
    """A source with one of the FAULTS."""

    name = "shelf"

    def __init__(self, shelf: Shelf, fault: str) -> None:
        self.shelf, self.fault = shelf, fault
        self.next = 0 if fault == "begins again" else shelf.position
        self.alarm = ""
        self.stopped = False
        self.ended = asyncio.Event()
        self.ended.set()

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        self.ended.clear()
        try:
            await self.pull(open_stream(source="shelf"))
        except DrainingError:
            pass
        except asyncio.CancelledError:
            if self.fault != "lingers":
                raise
            await asyncio.sleep(3)
        finally:
            self.ended.set()

    async def pull(self, stream: PulledStream) -> None:
        while not self.stopped:
            is_well = self.shelf.is_there or self.fault == "falls silent"
            self.alarm = "" if is_well else "the shelf is away"
            end = None if self.fault == "floods" else self.next + self.shelf.window
            texts = self.shelf.texts[self.next : end] if self.shelf.is_there else []
            if not texts:
                await asyncio.sleep(0.01)
                continue
            await self.hand_in(stream, [self.record(self.next + n, text) for n, text in enumerate(texts)])

    async def hand_in(self, stream: PulledStream, records: Sequence[Pulled]) -> None:
        if self.fault == "skips":
            records = [record for record in records if len(record.content.payload) < 100]  # type: ignore[union-attr]
        if self.fault == "shuffles":
            records = records[::-1]
        answer = await stream.push(records)
        if self.fault == "repeats":
            await stream.push(records)
        self.next += len(records)
        if self.fault in ("hurries", "floods"):
            self.shelf.position = self.next
        await answer
        while not self.shelf.is_there:
            self.alarm = "the shelf is away"
            if self.fault == "gives up":
                self.stopped = True
                return
            await asyncio.sleep(0.01)
        self.shelf.position = max(self.shelf.position, self.next)

    def record(self, number: int, text: str) -> Pulled:
        content: Event | RecordError = Event(event_type="t", payload=text.encode())
        return Pulled(content, f"record {number}", f"shelf-{number}")

    def stop(self) -> None:
        self.stopped = True

    async def drain(self) -> None:
        self.stop()
        await self.ended.wait()

    async def close(self) -> None:
        self.stop()
        if self.fault == "forgets":
            self.shelf.position = self.next

    def state(self) -> SourceState:
        return SourceState(f"{self.next} records", self.alarm)


FAULTS = {
    "repeats": "every record arrives once and in order",
    "shuffles": "every record arrives once and in order",
    "hurries": "commits what is acknowledged and no more",
    "forgets": "what was not acknowledged comes again",
    "begins again": "what was acknowledged does not come again",
    "floods": "a pipeline that takes nothing bounds what is pulled",
    "falls silent": "it starts without its origin",
    "gives up": "it finds its origin again",
    "skips": "a record that is refused costs only itself",
    "lingers": "it stops in time",
}
CHECKS = {check.name: check for check in source_checks()}


def test_a_source_that_keeps_the_contract_passes() -> None:
    assert_source(Shelf)


def test_each_check_finds_something() -> None:
    assert set(FAULTS.values()) == set(CHECKS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_suite_finds_what_is_wrong(fault: str) -> None:
    shelf = Shelf()
    shelf.fault = fault
    with pytest.raises(AssertionError, match="; fix: "):
        await CHECKS[FAULTS[fault]].run(shelf, patience=2.0)


async def test_what_an_origin_cannot_do_is_left_out_with_the_reason() -> None:
    class Unknowing(Shelf):
        abilities = OriginAbility.NONE

    report = await check_source(Unknowing)
    assert report.ok, report
    assert str(report).startswith("source of Unknowing\n")
    assert "what was not acknowledged comes again: left out, needs COMMITS" in str(report)
    assert "it starts without its origin: left out, needs AWAY" in str(report)
