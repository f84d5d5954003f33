"""A stage works on batches in order, answers them as the next actor does, and names what it refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polku import Aggregator, Batch, Code, Deduplicator, Event, Filter, Refusal, Transform
from polku.batch.batch import Identity
from polku.batch.receipt import Accepted, Counts, Receipt, outcome_of
from polku.contracts import Flush, Holder, Outcome, Step
from polku.dead_letters import DeadLetters
from polku.errors import DrainingError, UserCodeError
from polku.link.link import Link, LocalPeer, Window
from polku.middleware.adapt import as_step
from polku.stage.stage import Stage
from tests.buffer.parts import rest, until
from tests.support.clock import FakeClock
from tests.support.hostile import HOSTILE


class Next:
    """Be the next actor: answer each batch when the test says so, or at once."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.batches: list[Batch] = []
        self.answers: list[asyncio.Future[Receipt]] = []
        self.at_once = at_once

    async def push(self, batch: Batch) -> Receipt:
        self.batches.append(batch)
        self.answers.append(asyncio.get_running_loop().create_future())
        if self.at_once:
            self.answer(len(self.answers) - 1)
        return await self.answers[-1]

    def answer(self, position: int, *refused: str, counts: Counts | None = None) -> None:
        refusals = tuple(Refusal(i, Code.BUFFER_FULL, "full") for i in refused)
        self.answers[position].set_result(Receipt(refusals, counts or Counts(), 1, 10))

    @property
    def ids(self) -> list[list[str]]:
        return [batch.ids for batch in self.batches]


class Bench:
    def __init__(self, *components: object, at_once: bool = True, two_steps: bool = False, window: int = 8) -> None:
        self.clock = FakeClock()
        self.next = Next(at_once=at_once)
        self.dead_letters = DeadLetters()
        self.link = Link("stage", LocalPeer(self.next), window=Window(batches=window, join_events=1))
        steps: list[Step | Holder] = [as_step(component, self.clock) for component in components]
        self.stage = Stage(steps, self.link, self.dead_letters, self.clock, two_steps=two_steps)

    def push(self, *ids: str) -> asyncio.Future[Receipt]:
        return asyncio.ensure_future(self._push(batch(*ids)))

    async def _push(self, batch: Batch) -> Receipt:
        answer = await self.stage.push(batch)
        return await outcome_of(answer)


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=i, event_type="t", source="s") for i in ids])


def refused(receipt: Receipt) -> list[tuple[str, Code]]:
    return [(refusal.event_id, refusal.code) for refusal in receipt.refused]


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


async def test_a_duplicate_is_answered_when_the_first_one_is_and_as_it_is() -> None:
    bench = Bench(Deduplicator(), at_once=False)
    first, second = bench.push("1"), bench.push("1")
    await until(lambda: len(bench.next.batches) == 1)
    await rest()
    assert not second.done()
    bench.next.answer(0, "1")
    assert refused(await first) == refused(await second) == [("1", Code.BUFFER_FULL)]


async def test_a_duplicate_hears_of_the_refusal_of_the_first_one_even_if_its_own_batch_takes_longer() -> None:
    bench = Bench(Deduplicator(), at_once=False, two_steps=True)
    first, second = bench.push("1"), bench.push("2", "1")
    await until(lambda: bench.next.ids == [["1"], ["2"]])
    bench.next.answer(0, "1")
    assert refused(await first) == [("1", Code.BUFFER_FULL)]
    bench.next.answer(1)
    assert refused(await second) == [("1", Code.BUFFER_FULL)]


async def test_a_duplicate_within_a_batch_is_answered_with_it() -> None:
    bench = Bench(Deduplicator())
    receipt = await bench.push("1", "1")
    assert bench.next.ids == [["1"]]
    assert (receipt.refused, receipt.counts.deduplicated) == ((), 1)


async def test_what_was_refused_may_be_sent_again() -> None:
    bench = Bench(Deduplicator(), at_once=False)
    first = bench.push("1")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, "1")
    await first
    second = bench.push("1")
    await until(lambda: len(bench.next.batches) == 2)
    bench.next.answer(1)
    assert refused(await second) == []


async def test_inputs_of_an_aggregate_are_taken_at_once_and_answered_when_it_has_been_taken_further() -> None:
    bench = Bench(Aggregator(3, 10.0), at_once=False)
    taken = [await bench.stage.push(batch(*ids)) for ids in (["1"], ["2", "3"])]
    answers = [asyncio.ensure_future(answer.outcome()) for answer in taken if isinstance(answer, Accepted)]
    await until(lambda: len(bench.next.batches) == 1)
    await rest()
    assert [answer.done() for answer in answers] == [False, False]
    assert len(bench.next.batches[0]) == 1
    bench.next.answer(0)
    assert [refused(await answer) for answer in answers] == [[], []]


async def test_what_becomes_of_an_aggregate_is_what_all_its_inputs_are_told() -> None:
    bench = Bench(Aggregator(3, 10.0), at_once=False)
    answers = [bench.push("1"), bench.push("2", "3")]
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, *bench.next.batches[0].ids)
    first, second = await asyncio.gather(*answers)
    assert [(refusal.position, refusal.code) for refusal in first.refused] == [(0, Code.BUFFER_FULL)]
    assert [(refusal.position, refusal.code) for refusal in second.refused] == [
        (0, Code.BUFFER_FULL),
        (1, Code.BUFFER_FULL),
    ]


async def test_a_flush_lets_go_of_everything_through_all_holders() -> None:
    bench = Bench(Aggregator(10, 60.0), Aggregator(10, 60.0))
    answers = [bench.push("1"), bench.push("2")]
    await rest()
    assert (bench.next.batches, bench.stage.statistics().held) == ([], 2)
    await bench.stage.flush()
    await asyncio.gather(*answers)
    assert [len(batch) for batch in bench.next.batches] == [1]
    assert bench.stage.statistics().held == 0


async def test_held_events_go_when_they_are_due() -> None:
    bench = Bench(Aggregator(10, 60.0))
    await bench.stage.start()
    answer = bench.push("1")
    await rest()
    assert not answer.done()
    bench.clock.advance(60.0)
    bench.push("2").cancel()  # nothing comes of it
    other = bench.push("3")  # wakes the stage, which looks at the clock
    await asyncio.gather(answer, other)
    assert len(bench.next.batches) == 1
    await bench.stage.close()


async def test_a_holder_over_its_limit_lets_everything_go() -> None:
    bench = Bench(Aggregator(100, 60.0, max_held=3))
    answers = [bench.push(str(n)) for n in range(4)]
    await asyncio.gather(*answers)
    assert len(bench.next.batches) == 1


async def test_what_a_holder_still_has_when_the_stage_closes_is_never_answered_as_taken() -> None:
    bench = Bench(Aggregator(2, 60.0), at_once=False)
    await bench.stage.start()
    answers = [bench.push("1"), bench.push("2")]
    await until(lambda: len(bench.next.batches) == 1)
    await bench.stage.close()
    await rest()
    for answer in answers:
        if answer.done():
            with pytest.raises(DrainingError):
                answer.result()
        answer.cancel()


async def test_in_two_steps_the_stage_takes_what_the_next_link_has_room_for() -> None:
    bench = Bench(at_once=False, two_steps=True, window=1)
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


def places(receipt: Receipt) -> list[int]:
    return [refusal.position for refusal in receipt.refused]


def renamed(event: Event) -> Event:
    return Event(id=f"new-{event.id}", event_type="t", source="s")


async def test_what_an_event_became_is_refused_and_so_is_the_event() -> None:
    bench = Bench(Transform(renamed), at_once=False)
    answer = bench.push("1", "2", "3")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, "new-2")
    assert places(await answer) == [1]


async def test_an_event_that_was_renamed_in_place_is_refused_by_its_place() -> None:
    def rename(event: Event) -> None:
        event.id = "all the same"

    bench = Bench(Transform(rename), Filter(lambda event: True), at_once=False)
    answer = bench.push("1", "2")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answers[0].set_result(Receipt((Refusal("all the same", Code.BUFFER_FULL, "full", position=1),)))
    assert places(await answer) == [1]


async def test_a_whole_batch_function_that_splits_events_has_them_refused_together() -> None:
    def split(events: list[Event]) -> list[Event]:
        return [Event(id=f"{event.id}/{n}", event_type="t", source="s") for event in events for n in range(2)]

    bench = Bench(Transform(split, batch=True), at_once=False)
    answer = bench.push("1", "2")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, "2/1")
    assert places(await answer) == [0, 1]  # nobody knows of which it was made: rather twice than never


async def test_a_whole_batch_function_that_replaces_events_under_their_ids_costs_only_the_one() -> None:
    def replace(events: list[Event]) -> list[Event]:
        return [Event(id=event.id, event_type="u", source="s") for event in events]

    bench = Bench(Transform(replace, batch=True), at_once=False)
    answer = bench.push("1", "2", "3")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, "2")
    assert places(await answer) == [1]


async def test_events_behind_one_that_raises_keep_their_places_in_a_whole_batch_function() -> None:
    def replace(events: list[Event]) -> list[Event]:
        if any(event.id == "bad" for event in events):
            raise ValueError("no")
        return [renamed(event) for event in events]

    bench = Bench(Transform(replace, batch=True), at_once=False)
    answer = bench.push("1", "bad", "3", "4")
    await until(lambda: len(bench.next.batches) == 1)
    bench.next.answer(0, "new-1")
    assert [(refusal.position, refusal.code) for refusal in (await answer).refused] == [
        (0, Code.BUFFER_FULL),
        (1, Code.MIDDLEWARE_ERROR),
    ]


async def test_a_duplicate_in_another_place_hears_of_the_first_ones_fate_and_of_nobody_elses() -> None:
    bench = Bench(Filter(lambda event: event.id != "x"), Deduplicator(), Transform(renamed), at_once=False)
    first = bench.push("x", "a", "b")
    second = bench.push("c", "x", "b", "a")
    await until(lambda: len(bench.next.batches) == 2)
    assert bench.next.ids == [["new-a", "new-b"], ["new-c"]]
    bench.next.answer(0, "new-b")
    bench.next.answer(1)
    assert (places(await first), places(await second)) == ([2], [2])
    third = bench.push("a", "b")  # what was refused gets through, what was taken does not
    await until(lambda: len(bench.next.batches) == 3)
    assert bench.next.ids[2] == ["new-b"]
    bench.next.answer(2)
    assert places(await third) == []


async def test_a_duplicate_of_an_event_that_nobody_answered_for_must_be_sent_again() -> None:
    bench = Bench(Deduplicator(), at_once=False)
    first, second = bench.push("a"), bench.push("b", "a")
    await until(lambda: len(bench.next.batches) == 2)
    bench.next.answers[0].set_exception(RuntimeError("a fault in the next part"))
    bench.next.answer(1)
    with pytest.raises(RuntimeError):
        await first
    assert [(refusal.position, refusal.code) for refusal in (await second).refused] == [(1, Code.UNAVAILABLE)]


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
