"""A pipeline takes another plan while it runs: nothing is lost, held twice or out of order, or else nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from polku import Aggregator, BufferStrategy, Deduplicator, Filter, Hub, Limits, RateLimiter, Throttle, Transform
from polku.batch.batch import Batch
from polku.buffer.buffer import Buffer
from polku.buffer.journal_reader import JournalReader
from polku.contracts import IngestContext
from polku.errors import ChangeError
from polku.event.v1.event_pb2 import Event
from polku.gateway.addresses import Doors
from polku.runtime import changing
from polku.runtime.changing import Changed
from polku.runtime.inline import InlineRuntime
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch


class Out:
    """A destination that takes everything while it is `open`, and keeps the order; `tag` tells emitters apart."""

    def __init__(self, arrived: list[str], tag: str = "", *, is_open: bool = True, fails: str = "") -> None:
        self.arrived = arrived
        self.content_key = (tag, is_open, fails)
        self.tag = tag
        self.fails = fails
        self.opened = asyncio.Event()
        self.starts = self.calls = 0
        self.closed = False
        if is_open:
            self.opened.set()

    async def start(self) -> None:
        self.starts += 1
        if self.fails == "start":
            raise RuntimeError("its address is wrong")

    async def emit(self, batch: Batch) -> None:
        self.calls += 1
        await self.opened.wait()
        self.arrived += [self.tag + event.id for event in EventPayload.FromString(batch.payload).events]

    async def close(self) -> None:
        self.closed = True


class Running:
    """A pipeline on the inline runtime, in the event loop of its test."""

    def __init__(self, hub: Hub) -> None:
        self.runtime = InlineRuntime(hub.plan(), Doors(door=None))

    async def send(self, *ids: str, source: str = "s") -> Ack:
        events = [Event(id=event_id, source=source) for event_id in ids]
        message = IngestBatch(source=source)
        message.events.events.extend(events)
        return await self.runtime._lane.intake.batch(message.SerializeToString())

    async def send_raw(self, source: str, data: bytes) -> Ack:
        message = IngestBatch(source=source)
        message.raw.data = data
        return await self.runtime._lane.intake.batch(message.SerializeToString())

    async def update(self, hub: Hub, seconds: float = 30.0) -> Changed:
        return await self.runtime.update(hub.plan(), seconds=seconds)

    async def delivered(self) -> None:
        await self.runtime._lane.drain_buffer()

    @property
    def held(self) -> int:
        """The events that the first stage holds."""
        return self.runtime._lane.statistics().stages["stage-1"].held

    @property
    def emitters(self) -> Collection[str]:
        """The names of emitters that deliver, also of those that are gone."""
        return self.runtime._lane.statistics().emitters


async def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds."""
    while not condition():  # noqa: ASYNC110 - it is about the state of parts that have no event for it
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(hub: Hub) -> AsyncIterator[Running]:
    pipeline = Running(hub)
    await pipeline.runtime.start()
    try:
        yield pipeline
    finally:
        await pipeline.runtime.stop(1.0)


def hub(*steps: object, out: object, **options: Any) -> Hub:
    chain = Hub(runtime="inline")
    for step in steps:
        chain.middleware(step, name=type(step).__name__)
    return chain.emitter(out, name="out", **options)


def tagging(tag: str) -> Transform:
    def tag_it(event: Event) -> None:
        event.id += tag

    return Transform(tag_it)


async def test_batches_meet_the_old_code_or_the_new_one_in_their_order() -> None:
    arrived: list[str] = []
    async with running(hub(tagging("-0"), out=Out(arrived))) as pipeline:
        flood = Flood(pipeline)
        for version in range(1, 6):
            await flood.go_on()
            changed = await pipeline.update(hub(tagging(f"-{version}"), out=Out(arrived)))
            assert changed.difference.named("middleware", changed.difference.parts[-1].verdict.CHANGED) == ["Transform"]
        await flood.go_on()
        sent = await flood.end()
    assert [int(event_id.partition("-")[0]) for event_id in arrived] == sent
    versions = [int(event_id.partition("-")[2]) for event_id in arrived]
    assert versions == sorted(versions)
    assert set(versions) == set(range(6))


class Flood:
    """Send events one by one, until `end`."""

    def __init__(self, pipeline: Running) -> None:
        self.count = 0
        self._pipeline = pipeline
        self._ends = False
        self._sending = asyncio.ensure_future(self._send())

    async def go_on(self, count: int = 20) -> None:
        """Return when so many more were sent."""
        wanted = self.count + count
        await until(lambda: self.count >= wanted or self._sending.done())

    async def end(self) -> list[int]:
        """Return the numbers that were sent."""
        self._ends = True
        await self._sending
        await self._pipeline.delivered()
        return list(range(self.count))

    async def _send(self) -> None:
        while not self._ends:
            ack = await self._pipeline.send(str(self.count))
            assert list(ack.event_ids) == [str(self.count)]
            self.count += 1
            await asyncio.sleep(0)


async def test_what_stays_is_the_same_object_with_all_that_it_knows() -> None:
    class Counting:
        count = 0

        def process(self, events: list[Event]) -> list[Event]:
            for event in events:
                self.count += 1
                event.id += f"#{self.count}"
            return events

    arrived: list[str] = []
    async with running(hub(Counting(), out=Out(arrived))) as pipeline:
        await pipeline.send("a")
        await pipeline.update(hub(Counting(), tagging("!"), out=Out(arrived)))
        await pipeline.send("b")
        await pipeline.delivered()
    assert arrived == ["a#1", "b#2!"]


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        (Deduplicator(ttl=100), Deduplicator(ttl=200), ["a", "b", "c"]),
        (Deduplicator(ttl=100), Deduplicator(ttl=100, per="tenant"), ["a", "b", "a", "c"]),
        (RateLimiter(0.001, 2), RateLimiter(0.001, 5), ["a", "b"]),
        (Throttle(0.001, 2), Throttle(0.001, 5), ["a", "b"]),
    ],
)
async def test_state_moves_to_middleware_of_the_same_form(before: object, after: object, passed: list[str]) -> None:
    arrived: list[str] = []

    def chain(step: object) -> Hub:
        return Hub(runtime="inline").middleware(step, name="memory").emitter(Out(arrived), name="out")

    async with running(chain(before)) as pipeline:
        await pipeline.send("a", "b")
        await pipeline.update(chain(after))
        await pipeline.send("a")
        await pipeline.send("c")
        await pipeline.delivered()
    assert arrived == passed


async def test_a_duplicate_is_answered_when_the_first_is_also_by_the_next_deduplicator() -> None:
    arrived: list[str] = []
    out = Out(arrived, is_open=False)
    async with running(hub(Deduplicator(ttl=100), out=out).ack("delivered")) as pipeline:
        first = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: out.calls)
        await pipeline.update(hub(Deduplicator(ttl=200), out=out).ack("delivered"))
        second = asyncio.ensure_future(pipeline.send("a"))
        done, _ = await asyncio.wait([first, second], timeout=0.05)
        assert not done
        out.opened.set()
        assert [list(ack.event_ids) for ack in await asyncio.gather(first, second)] == [["a"], ["a"]]
        third = await pipeline.send("a")
        assert list(third.event_ids) == ["a"]
    assert arrived == ["a"]


async def test_what_is_answered_while_state_moves_is_known_to_what_takes_it_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrived: list[str] = []
    out = Out(arrived, is_open=False)
    async with running(hub(Deduplicator(ttl=100), out=out).ack("delivered")) as pipeline:
        first = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: out.calls)
        rearrange = Buffer.rearrange

        async def rearranged(self: Buffer, *arguments: Any, **options: Any) -> None:
            out.opened.set()
            await first
            await rearrange(self, *arguments, **options)

        monkeypatch.setattr(Buffer, "rearrange", rearranged)
        await pipeline.update(hub(Deduplicator(ttl=200), out=out).ack("delivered"))
        again = await asyncio.wait_for(pipeline.send("a", "b"), 30)
        assert list(again.event_ids) == ["a", "b"]
    assert arrived == ["a", "b"]


@pytest.mark.parametrize(("size", "before"), [(4, 0), (2, 1)])
async def test_what_an_aggregator_holds_moves_with_the_answers_that_wait_for_it(size: int, before: int) -> None:
    arrived: list[str] = []
    async with running(hub(Aggregator(10, 60.0), out=Out(arrived))) as pipeline:
        waiting = [asyncio.ensure_future(pipeline.send(event_id)) for event_id in "ab"]
        await until(lambda: pipeline.held == 2)
        changed = await pipeline.update(hub(Aggregator(size, 60.0), out=Out(arrived)))
        assert "keeps its state" in str(changed.difference)
        await asyncio.sleep(0)
        await pipeline.delivered()
        assert len(arrived) == before
        waiting += [asyncio.ensure_future(pipeline.send(event_id)) for event_id in "cd"]
        assert [list(ack.event_ids) for ack in await asyncio.gather(*waiting)] == [["a"], ["b"], ["c"], ["d"]]
        await pipeline.delivered()
    assert len(arrived) == 4 // size


async def test_what_an_aggregator_holds_that_goes_is_let_go() -> None:
    arrived: list[str] = []
    async with running(hub(Aggregator(10, 60.0), tagging("!"), out=Out(arrived))) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: pipeline.held)
        await pipeline.update(hub(tagging("?"), out=Out(arrived)))
        assert list((await waiting).event_ids) == ["a"]
        await pipeline.send("b")
        await pipeline.delivered()
    assert [event_id[-1] for event_id in arrived] == ["!", "?"]


async def test_what_an_aggregator_lets_go_that_goes_moves_with_the_state_of_the_one_behind_it() -> None:
    arrived: list[str] = []

    def all_together(event: Event) -> int:
        return 0

    first, second = Aggregator(10, 60.0), Aggregator(2, 60.0, key=all_together)
    chain = Hub(runtime="inline").middleware(first, name="first").middleware(second, name="second")
    async with running(chain.emitter(Out(arrived), name="out")) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: pipeline.held == 1)
        other = (
            Hub(runtime="inline")
            .middleware(Aggregator(2, 50.0, key=all_together), name="second")
            .emitter(Out(arrived), name="out")
        )
        await pipeline.update(other)
        assert pipeline.held == 1
        async with asyncio.timeout(30):
            acks = await asyncio.gather(waiting, pipeline.send("b"))
        assert [list(ack.event_ids) for ack in acks] == [["a"], ["b"]]
        await pipeline.delivered()
    assert len(arrived) == 1


async def test_stages_are_divided_otherwise_under_load() -> None:
    arrived: list[str] = []
    plain = hub(out=Out(arrived))
    async with running(plain) as pipeline:
        flood = Flood(pipeline)
        for number in range(6):
            await flood.go_on()
            chain = hub(*[Filter(bool)] * (number % 3), out=Out(arrived))
            if number % 2:
                chain.middleware(Filter(bool), isolate=True)
            await pipeline.update(chain)
        sent = await flood.end()
        assert list(pipeline.runtime._lane.statistics().stages) == ["stage-1", "stage-2"]
    assert arrived == [str(number) for number in sent]


async def test_stages_are_not_divided_otherwise_while_senders_wait_for_a_destination_that_is_down() -> None:
    arrived: list[str] = []
    out = Out(arrived, is_open=False)
    async with running(hub(out=out).ack("delivered")) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: out.calls)
        with pytest.raises(ChangeError, match=r"1 batch had no answer within 0.05 s"):
            await pipeline.update(hub(Filter(bool), out=out).ack("delivered"), seconds=0.05)
        out.opened.set()
        await waiting
        await pipeline.send("b")
    assert arrived == ["a", "b"]


async def test_middleware_that_hangs_keeps_its_stage_and_is_named() -> None:
    arrived: list[str] = []
    go_on = asyncio.Event()

    async def slow(event: Event) -> None:
        await go_on.wait()

    new = tagging("!")
    async with running(hub(Transform(slow), out=Out(arrived))) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await asyncio.sleep(0.01)
        with pytest.raises(ChangeError, match=r"stage-1 did not come to rest within 0.05 s: Transform is at work"):
            await pipeline.update(hub(new, out=Out(arrived)), seconds=0.05)
        go_on.set()
        await waiting
        await pipeline.send("b")
        await pipeline.delivered()
    assert arrived == ["a", "b"]


class Failing:
    """Middleware or ingestor whose `start` fails."""

    def start(self) -> None:
        raise OSError("no such model")

    def process(self, events: list[Event]) -> list[Event]:
        return events

    def ingest(self, data: bytes, context: IngestContext) -> Sequence[Event]:
        return []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h.middleware(Failing()), "middleware Failing does not start: OSError: no such model"),
        (lambda h: h.emitter(Out([], "new", fails="start"), name="two"), "emitter 'two' does not start: RuntimeError"),
        (lambda h: h.ingestor(Failing(), source="x"), "ingestor 'x' does not start: OSError"),
        (lambda h: h.ack("delivered"), "the level of acknowledgement cannot be changed while"),
    ],
)
async def test_what_does_not_start_changes_nothing_and_is_closed(change: Callable[[Hub], Hub], reason: str) -> None:
    arrived: list[str] = []
    started = Out(arrived, "started")
    async with running(hub(tagging("-old"), out=Out(arrived))) as pipeline:
        new = change(hub(tagging("-new"), out=Out(arrived)).emitter(started, name="started"))
        with pytest.raises(ChangeError, match=reason) as error:
            await pipeline.update(new)
        assert "new       emitter started" in error.value.difference
        await pipeline.send("a")
        await pipeline.delivered()
        assert arrived == ["a-old"]
        assert started.closed == bool(started.starts)
        assert list(pipeline.runtime._lane.statistics().emitters) == ["out"]
        await pipeline.update(hub(tagging("-newer"), out=Out(arrived)))
        await pipeline.send("b")
        await pipeline.delivered()
    assert arrived == ["a-old", "b-newer"]


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


async def test_ingestors_and_limits_change_in_place() -> None:
    arrived: list[str] = []
    go_on = asyncio.Event()

    class Reader:
        def __init__(self, tag: str) -> None:
            self.tag = tag
            self.closed = False

        async def ingest(self, data: bytes, context: IngestContext) -> list[Event]:
            if self.tag == "old":
                await go_on.wait()
            return [Event(id=f"{self.tag}-{data.decode()}")]

        def close(self) -> None:
            self.closed = True

    old = Reader("old")

    def chain(reader: Reader, **limits: int) -> Hub:
        return hub(out=Out(arrived)).ingestor(reader, source="x").limits(Limits(**limits))

    async with running(chain(old)) as pipeline:
        reading = asyncio.ensure_future(pipeline.send_raw("x", b"1"))
        await asyncio.sleep(0.01)
        await pipeline.update(chain(Reader("new"), batch_events=1))
        assert list((await pipeline.send_raw("x", b"2")).event_ids) == ["new-2"]
        assert not old.closed
        go_on.set()
        assert list((await reading).event_ids) == ["old-1"]
        await until(lambda: old.closed)
        assert "TOO_MANY" in (await pipeline.send("a", "b")).errors[0].code
        await pipeline.update(hub(out=Out(arrived)))
        assert (await pipeline.send_raw("x", b"3")).errors[0].code == "UNKNOWN_SOURCE"


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


async def test_one_change_at_a_time_and_none_while_it_stops() -> None:
    class Slow:
        async def start(self) -> None:
            await asyncio.sleep(0.05)

        def process(self, events: list[Event]) -> list[Event]:
            return events

    async with running(hub(out=Out([]))) as pipeline:
        first = asyncio.ensure_future(pipeline.update(hub(Slow(), out=Out([]))))
        await asyncio.sleep(0.01)
        with pytest.raises(ChangeError, match="another change is in progress"):
            await pipeline.update(hub(tagging("!"), out=Out([])))
        assert (await first).difference.named("middleware", (await first).difference.parts[-2].verdict.NEW) == ["Slow"]
    with pytest.raises(ChangeError, match="the pipeline is stopping"):
        await pipeline.update(hub(out=Out([])))
