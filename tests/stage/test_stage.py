"""A stage works on batches in order, answers them as the next actor does, and names what it refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polku import Batch, Code, Deduplicator, Event, Filter
from polku.batch.batch import Identity
from polku.batch.receipt import Accepted, Counts
from polku.contracts import Flush, Outcome
from polku.errors import UserCodeError
from tests.buffer.parts import rest, until
from tests.stage.bench import Bench, batch, refused
from tests.support.hostile import HOSTILE


class Recorded:
    """Be a step that refuses and drops ids by their first letter, and writes down what it is told."""

    name = "Recorded"
    drop_reason = "filtered"

    def __init__(self) -> None:
        self.told: list[tuple[int, list[int]]] = []

    def process(self, events: list[Event], batch: int) -> Outcome:
        return Outcome([event for event in events if event.id[0] != "d"])

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        self.told.append((batch, sorted(refused)))


class SlowFirst:
    """Be a step that takes longer the earlier a batch comes."""

    name = "SlowFirst"
    drop_reason = "filtered"

    async def process(self, events: list[Event], batch: int) -> Outcome:
        for _ in range(20 - 5 * batch):
            await asyncio.sleep(0)
        return Outcome(events)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass


async def test_batches_go_on_in_the_order_of_their_arrival_however_long_each_takes() -> None:
    bench = Bench(SlowFirst())
    await asyncio.gather(bench.push("1"), bench.push("2"), bench.push("3"))
    assert bench.next.ids == [["1"], ["2"], ["3"]]


async def test_a_batch_is_answered_when_the_next_actor_has_answered() -> None:
    bench = Bench(Recorded(), at_once=False)
    answer = bench.push("1", "2")
    await until(lambda: bench.next.ids == [["1", "2"]])
    await rest()
    assert not answer.done()
    bench.next.answer(0, "2")
    assert refused(await answer) == [("2", Code.BUFFER_FULL)]


async def test_steps_are_told_once_of_every_batch_and_what_was_refused_in_it() -> None:
    step = Recorded()
    bench = Bench(step, at_once=False)
    answers = [bench.push("1", "2"), bench.push("d1")]
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, "2")
    await asyncio.gather(*answers)
    assert sorted(step.told) == [(1, [1]), (2, [])]


async def test_a_batch_of_which_nothing_is_left_is_answered_at_once_and_its_events_are_counted() -> None:
    bench = Bench(Filter(lambda event: False))
    receipt = await bench.push("1", "2")
    assert bench.next.batches == []
    assert (receipt.refused, receipt.counts.filtered) == ((), 2)


async def test_counts_of_the_stage_are_added_to_those_of_the_next_actor() -> None:
    bench = Bench(Filter(lambda event: event.id != "2"), at_once=False)
    answer = bench.push("1", "2")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, counts=Counts(filtered=5, forwarded=7))
    receipt = await answer
    assert (receipt.counts.filtered, receipt.counts.forwarded) == (6, 7)
    assert (receipt.buffer_size, receipt.buffer_capacity) == (1, 10)


async def test_what_is_filtered_is_cut_out_and_the_others_keep_their_bytes_under_a_name_that_says_so() -> None:
    bench = Bench(Filter(lambda event: event.id != "2"))
    one = batch("1", "2", "3")
    one.identity = Identity("ingest", 1, 1)
    await bench.stage.push(one)
    assert bench.next.ids == [["1", "3"]]
    assert bench.next.batches[0].payload == batch("1", "3").payload
    identity = bench.next.batches[0].identity
    assert identity is not None
    assert identity.whole == Identity("ingest", 1, 1) != identity


async def test_a_step_that_raises_makes_dead_letters_of_its_batch_and_the_next_one_passes() -> None:
    class Broken(Recorded):
        def process(self, events: list[Event], batch: int) -> Outcome:
            if batch == 1:
                raise ValueError("broken")
            return Outcome(events)

    bench = Bench(Broken())
    assert refused(await bench.push("1", "2")) == [("1", Code.MIDDLEWARE_ERROR), ("2", Code.MIDDLEWARE_ERROR)]
    assert refused(await bench.push("3")) == []
    letters = bench.dead_letters.latest()
    assert [letter.event.id for letter in letters] == ["1", "2"]
    assert "ValueError: broken" in letters[0].reason
    assert "Traceback" in letters[0].detail
    assert bench.stage.statistics().dead == 2


async def test_a_function_that_raises_for_one_event_costs_that_event_alone() -> None:
    def check(event: Event) -> Event:
        if event.id == "2":
            raise ValueError("bad")
        return event

    bench = Bench(check)
    assert refused(await bench.push("1", "2", "3")) == [("2", Code.MIDDLEWARE_ERROR)]
    assert bench.next.ids == [["1", "3"]]


async def test_in_holds_behind_the_stage_takes_what_the_next_link_has_room_for() -> None:
    bench = Bench(at_once=False, holds_behind=True, window=1)
    first = asyncio.ensure_future(bench.stage.push(batch("1")))
    await rest()
    assert not first.done()  # the window is full: a second batch would have to wait
    bench.next.answer(0)
    answer = await first
    assert isinstance(answer, Accepted)
    assert refused(await answer.outcome()) == []


async def test_routes_are_read_where_all_events_have_the_same() -> None:
    bench = Bench()
    for routes in ([("a",), ("a",)], [("a",), ("b",)], [(), ()]):
        await bench.stage.push(routed(routes))
    assert [batch.routes for batch in bench.next.batches] == [("a",), None, ()]


def routed(routes: Sequence[Sequence[str]]) -> Batch:
    return Batch.from_events([Event(id=str(n), route_to=to) for n, to in enumerate(routes)])


async def test_hooks_of_middleware_are_called_at_start_and_close() -> None:
    class Hooked(Recorded):
        async def start(self) -> None:
            self.hooks = ["start"]

        def close(self) -> None:
            self.hooks.append("close")

    step = Hooked()
    bench = Bench(step)
    await bench.stage.start()
    await bench.stage.close()
    assert (step.hooks, step.told) == (["start", "close"], [])


class BrokenHolder:
    """Be a holder that cannot hold."""

    name = "BrokenHolder"
    drop_reason = "filtered"
    held = (0, 0)
    limit = (1, 1)

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def hold(self, events: list[Event], batch: int) -> Sequence[Flush]:
        raise self.error

    def due(self) -> float | None:
        return None

    def flush(self, *, everything: bool = False) -> Sequence[Flush]:
        return []


@pytest.mark.parametrize("error", [*HOSTILE, ValueError])
async def test_what_a_batch_has_passed_before_it_failed_is_not_taken_for_done(error: type[BaseException]) -> None:
    bench = Bench(Deduplicator(), BrokenHolder(error))
    for _ in range(2):  # the second one is no duplicate: nothing became of the first
        with pytest.raises((UserCodeError, ValueError)):
            await asyncio.wait_for(bench.push("1"), 30)


@pytest.mark.parametrize("error", HOSTILE)
async def test_a_step_that_raises_no_exception_costs_its_batch_and_no_other(error: type[BaseException]) -> None:
    class Broken(Recorded):
        async def process(self, events: list[Event], batch: int) -> Outcome:  # type: ignore[override]
            await asyncio.sleep(0)
            if events[0].id == "bad":
                raise error
            return Outcome(events)

    bench = Bench(Deduplicator(), Broken())
    for _ in range(2):
        receipt = await asyncio.wait_for(bench.push("bad"), 30)
        assert refused(receipt) == [("bad", Code.MIDDLEWARE_ERROR)]
        assert error.__name__ in receipt.refused[0].message
    assert refused(await asyncio.wait_for(bench.push("good"), 30)) == []
