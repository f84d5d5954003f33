"""An event that a function renamed, split or replaced is refused by its place, with nobody else."""

from __future__ import annotations

from polku import Code, Event, Filter, Refusal, Transform
from polku.batch.receipt import Receipt
from tests.buffer.parts import until
from tests.stage.bench import Bench, places, renamed


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
