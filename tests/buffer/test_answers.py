"""A buffer knows what it has had, also where it comes again in parts."""

from __future__ import annotations

import pytest

from polku import BufferStrategy
from polku.batch import Identity
from polku.poison import divide
from polku.receipt import Receipt
from tests.buffer.parts import Bench, Destination, batch, finish, numbered

WHOLE = Identity("p/lane-1/ingest", 7, 3)


@pytest.mark.parametrize("await_delivery", [False, True])
async def test_parts_of_a_batch_that_is_known_are_answered_as_it_was_and_not_held_again(await_delivery: bool) -> None:
    a = Destination(refuses={"0003"})
    bench = Bench(BufferStrategy.ring(100), {"a": a}, await_delivery=await_delivery)
    whole = batch(*numbered(0, 9))
    whole.identity = WHOLE
    answers = [await bench.buffer.push(whole)]
    for part in divide(whole):
        answers.append(await bench.buffer.push(part))
        answers += [await bench.buffer.push(smaller) for smaller in divide(part)]
    receipts: list[Receipt] = [await finish(answer) for answer in answers]
    await bench.buffer.drain()
    assert a.ids == numbered(0, 9)
    assert bench.buffer.statistics().duplicates == len(answers) - 1 == 12
    refused = [[(refusal.event_id, refusal.position) for refusal in receipt.refused] for receipt in receipts]
    if await_delivery:
        # The whole; parts of 0 to 2, 3 to 5 and 6 to 8, each with its three events behind it.
        expected = {0: [("0003", 3)], 5: [("0003", 0)], 6: [("0003", 0)]}
        assert refused == [expected.get(number, []) for number in range(13)]
    else:
        assert refused == [[]] * 13


async def test_a_part_that_was_divided_again_is_held_once_and_other_parts_are_no_duplicates() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(1_000), {"a": a})
    whole = batch(*numbered(0, 9))
    whole.identity = WHOLE
    first, second, third = divide(whole)
    for part in (first, *divide(first), second, second, *divide(third), *divide(third)):
        await bench.push(part)
    other = batch("other")
    other.identity = WHOLE._replace(seq=4).part(0, 1)
    await bench.push(other)
    await bench.buffer.drain()
    assert a.ids == [*numbered(0, 9), "other"]


async def test_of_parts_no_more_is_remembered_than_of_batches() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10_000), {"a": a})
    for seq in range(600):
        part = batch(str(seq))
        part.identity = WHOLE._replace(seq=seq).part(0, 1)
        await bench.push(part)
    assert len(bench.buffer._answered._parts) == 256
    assert bench.buffer._answered._lives == {}
