"""Events that a step holds go when they are due, and are answered when what was made of them is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polku import Aggregator, Code
from polku.batch.receipt import Accepted
from polku.contracts import Flush
from polku.errors import DrainingError
from tests.buffer.parts import rest, until
from tests.stage.bench import Bench, batch, refused


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


async def test_others_have_their_turn_while_thousands_of_groups_go() -> None:
    bench = Bench(Aggregator(10, 60.0, key=lambda event: event.id))
    answer = bench.push(*map(str, range(3_000)))
    await rest()
    flushing = asyncio.ensure_future(bench.stage.flush())
    seen = set()
    while not flushing.done():
        await asyncio.sleep(0)
        seen.add(len(bench.next.batches))
    await answer
    assert len(bench.next.batches) == 3_000
    assert len(seen) > 5  # of 3,000 batches of 30 µs and more


async def test_a_flush_lets_go_of_everything_through_all_holders() -> None:
    bench = Bench(Aggregator(10, 60.0), Aggregator(10, 60.0))
    answers = [bench.push("1"), bench.push("2")]
    await rest()
    assert (bench.next.batches, bench.stage.statistics().held) == ([], 2)
    await bench.stage.flush()
    await asyncio.gather(*answers)
    assert [len(batch) for batch in bench.next.batches] == [1]
    assert bench.stage.statistics().held == 0


async def test_a_holder_that_cannot_release_keeps_back_what_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(Aggregator(10, 60.0), Aggregator(10, 60.0))
    (_, first), (_, second) = bench.stage._holdings._holders
    early, late = bench.push("1"), None
    await rest()
    release = first.flush

    def flush(*, everything: bool = False) -> Sequence[Flush]:
        if late is None:
            return release(everything=everything)
        raise LookupError("a group is gone")

    def keep(*, everything: bool = False) -> Sequence[Flush]:
        return ()

    monkeypatch.setattr(first, "flush", flush)
    with monkeypatch.context() as patch:
        patch.setattr(second, "flush", keep)
        await bench.stage.flush()  # from the first one to the second one
    late = bench.push("2")
    await rest()
    with pytest.raises(LookupError, match="a group is gone"):
        await bench.stage.flush()
    async with asyncio.timeout(5):
        await early
    assert [len(batch) for batch in bench.next.batches] == [1]
    late.cancel()


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
