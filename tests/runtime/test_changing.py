"""A pipeline takes another plan while it runs: nothing is lost, held twice or out of order, or else nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from polku import Filter, Hub, Limits, Transform
from polku.contracts import IngestContext
from polku.errors import ChangeError
from polku.event.v1.event_pb2 import Event
from polku.runtime.reloading import Reloader
from tests.runtime.changes import Flood, Out, hub, running, tagging, until


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


async def test_another_runtime_is_refused_by_name_unless_it_was_chosen_at_the_start() -> None:
    def out(batch: object) -> None:
        pass

    on_ray, inline = (Hub(runtime=runtime).emitter(out, name="out") for runtime in ("ray", "inline"))
    async with inline.start() as pipeline:
        with pytest.raises(
            ChangeError, match=r"the runtime cannot be changed .* \(inline before, ray now\); restart it"
        ):
            await pipeline.update(on_ray)
        assert not (await pipeline.update(inline)).difference.refusals
    async with on_ray.start(runtime="inline") as pipeline:
        await pipeline.update(on_ray.limits(Limits(batch_events=7)))
        assert pipeline.plan.limits.batch_events == 7


def test_a_file_that_names_another_runtime_is_refused() -> None:
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="out")
    reloader = Reloader(lambda: Hub(runtime="ray").emitter(lambda batch: None, name="out"))
    answer = reloader.ask()
    with hub.start() as pipeline:
        reloader.serve(pipeline, lambda text: None)
        assert "the runtime cannot be changed" in answer.result(0).refused
        assert "the runtime cannot be changed" in pipeline.health().components["reload"][1]
