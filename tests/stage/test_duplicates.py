"""A duplicate hears what the first of its events hears, when that does, and of nobody else."""

from __future__ import annotations

import pytest

from polku import Code, Deduplicator, Filter, Transform
from tests.buffer.parts import rest, until
from tests.stage.bench import Bench, places, refused, renamed


async def test_a_duplicate_is_answered_when_the_first_one_is_and_as_it_is() -> None:
    bench = Bench(Deduplicator(), at_once=False)
    first, second = bench.push("1"), bench.push("1")
    await until(lambda: len(bench.next.batches) == 1)
    await rest()
    assert not second.done()
    bench.next.answer(0, "1")
    assert refused(await first) == refused(await second) == [("1", Code.BUFFER_FULL)]


async def test_a_duplicate_hears_of_the_refusal_of_the_first_one_even_if_its_own_batch_takes_longer() -> None:
    bench = Bench(Deduplicator(), at_once=False, holds_behind=True)
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
