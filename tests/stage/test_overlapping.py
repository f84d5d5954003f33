"""A stage that works on several batches at once hands them on, and answers them, as one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polku import Batched, Batching, Code, Event
from polku.batch.receipt import Accepted, Receipt, outcome_of
from polku.dead_letters import DeadLetters
from polku.hooks import call_hook
from polku.link.link import Link, LocalPeer, Window
from polku.middleware.adapt import as_step
from polku.stage.overlapping import OverlappingStage
from polku.stage.replicas import Replicas, ReplyLink
from tests.buffer.parts import until
from tests.stage.bench import Next, batch
from tests.support.clock import FakeClock


class Model:
    """Answer calls when the test says so; name the calls after their first events."""

    def __init__(self) -> None:
        self.calls: dict[str, asyncio.Future[None]] = {}

    async def predict(self, events: Sequence[Event]) -> list[Exception | None]:
        call = self.calls[events[0].id] = asyncio.get_running_loop().create_future()
        await call
        return [ValueError("no") if event.id.startswith("bad") else None for event in events]

    def answer(self, *first: str) -> None:
        for event_id in first:
            self.calls[event_id].set_result(None)


class Bench:
    def __init__(self, *, max_events: int = 2, in_flight: int = 2, at_once: bool = True) -> None:
        self.model = Model()
        self.next = Next(at_once=at_once)
        self.link = Link("stage", LocalPeer(self.next), window=Window(batches=8, join_events=1))
        self.dead_letters = DeadLetters()
        self.clock = FakeClock()
        model = Batched(self.model, Batching(max_events=max_events, in_flight=in_flight, max_wait=60))
        step = as_step(model, self.clock)
        self.stage = OverlappingStage([step], self.link, self.dead_letters, self.clock)

    async def push(self, *ids: str) -> asyncio.Future[Receipt]:
        answer = await self.stage.push(batch(*ids))
        assert isinstance(answer, Accepted)
        return asyncio.ensure_future(outcome_of(answer))


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.stage.start()
    return made


async def test_batches_go_on_in_the_order_of_their_arrival(bench: Bench) -> None:
    await bench.push("1", "2")
    second = await bench.push("3", "4")
    await until(lambda: len(bench.model.calls) == 2)
    bench.model.answer("3")
    await asyncio.sleep(0)
    assert bench.next.ids == []
    bench.model.answer("1")
    await second
    assert bench.next.ids == [["1", "2"], ["3", "4"]]
    await bench.stage.close()


async def test_a_batch_whose_events_are_in_several_calls_goes_on_with_the_last_of_them(bench: Bench) -> None:
    first = await bench.push("1", "2", "3")
    second = await bench.push("4")
    await until(lambda: len(bench.model.calls) == 2)
    bench.model.answer("1", "3")
    await asyncio.gather(first, second)
    assert bench.next.ids == [["1", "2", "3"], ["4"]]
    await bench.stage.close()


async def test_what_fails_is_refused_at_its_place_and_the_others_go_on(bench: Bench) -> None:
    first = await bench.push("1", "bad-2", "3", "bad-4")
    await until(lambda: len(bench.model.calls) == 2)
    bench.model.answer("3", "1")
    receipt = await first
    assert [(r.position, r.event_id, r.code) for r in receipt.refused] == [
        (1, "bad-2", Code.MIDDLEWARE_ERROR),
        (3, "bad-4", Code.MIDDLEWARE_ERROR),
    ]
    assert bench.next.ids == [["1", "3"]]
    assert bench.stage.statistics().dead == 2
    await bench.stage.close()


async def test_what_is_refused_further_down_has_its_place_too() -> None:
    bench = Bench(at_once=False)
    await bench.stage.start()
    first = await bench.push("bad-1", "2")
    await until(lambda: len(bench.model.calls) == 1)
    bench.model.answer("bad-1")
    await until(lambda: len(bench.next.answers) == 1)
    bench.next.answer(0, "2")
    assert [(r.position, r.code) for r in (await first).refused] == [
        (0, Code.MIDDLEWARE_ERROR),
        (1, Code.BUFFER_FULL),
    ]
    await bench.stage.close()


async def test_it_takes_no_more_than_it_may_have_without_an_outcome() -> None:
    bench = Bench(max_events=1, in_flight=1)
    await bench.stage.start()
    pushes = [asyncio.ensure_future(bench.push(str(number))) for number in range(6)]
    await until(lambda: sum(push.done() for push in pushes) == 3 and "0" in bench.model.calls)
    bench.model.answer("0")
    await until(lambda: sum(push.done() for push in pushes) == 4)
    assert bench.stage.statistics().batches <= 5
    await bench.stage.close()
    await asyncio.gather(*pushes[4:], return_exceptions=True)


async def test_a_flush_fills_no_more(bench: Bench) -> None:
    first = await bench.push("1")
    assert bench.stage.statistics().held == 1
    await bench.stage.flush()
    await until(lambda: len(bench.model.calls) == 1)
    statistics = bench.stage.statistics()
    assert (statistics.held, statistics.step) == (0, "Model")
    bench.model.answer("1")
    await first
    assert bench.stage.statistics().step == ""
    await bench.stage.close()


async def test_at_rest_no_call_is_in_flight(bench: Bench) -> None:
    await bench.push("1")

    async def rest() -> None:
        async with bench.stage.at_rest():
            assert bench.next.ids == [["1"]]

    resting = asyncio.ensure_future(rest())
    await until(lambda: len(bench.model.calls) == 1)
    assert not resting.done()
    bench.model.answer("1")
    await resting
    await bench.stage.close()


async def test_what_comes_while_the_step_is_exchanged_meets_the_one_that_takes_its_place(bench: Bench) -> None:
    def mark(event: Event) -> None:
        event.metadata["mark"] = "new"

    (before,) = bench.stage.middleware
    async with bench.stage.at_rest():
        coming = [asyncio.ensure_future(bench.stage.push(batch(event_id))) for event_id in "12"]
        await asyncio.sleep(0)
        await bench.stage.take_steps((as_step(mark, bench.clock),), [])
        await call_hook(before, "close")
    receipts = [await outcome_of(await answer) for answer in coming]
    assert [len(receipt.refused) for receipt in receipts] == [0, 0]
    assert bench.next.ids == [["1"], ["2"]]
    assert not bench.model.calls
    await bench.stage.close()


async def test_closing_gives_up_what_is_in_flight(bench: Bench) -> None:
    first = await bench.push("1", "2")
    waiting = await bench.push("3")
    await until(lambda: len(bench.model.calls) == 1)
    await bench.stage.close()
    for outcome in (first, waiting):
        with pytest.raises(Exception, match="closed"):
            await outcome


async def test_replicas_fill_their_calls_from_several_batches_and_keep_the_order() -> None:
    models = [Model(), Model()]
    letters, clock = DeadLetters(), FakeClock()
    batching = Batching(max_events=2, in_flight=1, max_wait=60)
    stages = [OverlappingStage([as_step(Batched(m, batching), clock)], ReplyLink(), letters, clock) for m in models]
    for stage in stages:
        await stage.start()
    after = Next()
    links = [Link(f"replica-{n}", LocalPeer(stage), window=Window(join_events=0)) for n, stage in enumerate(stages)]
    replicas = Replicas(links, Link("next", LocalPeer(after), window=Window(join_events=1)), overlapping=True)
    answers = [await replicas.push(batch(str(number))) for number in range(4)]
    outcomes = [asyncio.ensure_future(outcome_of(answer)) for answer in answers]
    await until(lambda: all(model.calls for model in models))
    models[1].answer("1")
    await asyncio.sleep(0)
    assert after.ids == []
    models[0].answer("0")
    await asyncio.gather(*outcomes)
    assert after.ids == [["0"], ["1"], ["2"], ["3"]]
    for stage in stages:
        shape = stage.statistics().calls
        assert shape is not None
        assert (shape.full, shape.aged, shape.sizes.sum) == (1, 0, 2.0)
        await stage.close()
    await replicas.close()
