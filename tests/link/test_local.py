"""Batches that are handed to the next part in the same process."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Event
from polku.batch.receipt import Accepted, Answer, Receipt
from polku.errors import DrainingError
from polku.link.local import LocalLink


class Slow:
    """Answer at once, or where it has a gate, when that opens."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.gate = gate
        self.turn = asyncio.Lock()
        self.ids: list[str] = []

    async def push(self, batch: Batch) -> Answer:
        async with self.turn:
            if self.gate is not None:
                await self.gate.wait()
            self.ids += batch.ids
        return Receipt(buffer_size=len(self.ids))


def _batch(event_id: str) -> Batch:
    return Batch.from_events([Event(id=event_id)])


async def test_what_waits_for_nothing_is_answered_in_the_same_turn() -> None:
    receiver = Slow()
    answer = LocalLink("next", receiver).push_nowait(_batch("1"))
    assert answer.done()
    assert receiver.ids == ["1"]
    assert (await answer).buffer_size == 1


async def test_batches_keep_their_order_and_each_has_its_own_answer() -> None:
    receiver = Slow(asyncio.Event())
    neighbour = LocalLink("next", receiver)
    answers = [neighbour.push_nowait(_batch(str(number))) for number in range(10)]
    await neighbour.wait_room()
    assert not any(answer.done() for answer in answers)
    assert receiver.gate is not None
    receiver.gate.set()
    receipts = await asyncio.gather(*answers)
    assert receiver.ids == [str(number) for number in range(10)]
    assert [receipt.buffer_size for receipt in receipts] == list(range(1, 11))


async def test_what_the_receiver_raises_is_the_answer() -> None:
    class Broken:
        async def push(self, batch: Batch) -> Receipt:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await LocalLink("next", Broken()).push_nowait(_batch("1"))


async def test_an_answer_that_comes_later_is_awaited() -> None:
    later: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    class Late:
        async def push(self, batch: Batch) -> Accepted:
            return Accepted(later)

    answer = LocalLink("next", Late()).push_nowait(_batch("1"))
    assert not answer.done()
    later.set_result(Receipt(buffer_size=7))
    assert (await answer).buffer_size == 7


async def test_closed_it_fails_what_is_open_and_what_comes() -> None:
    neighbour = LocalLink("next", Slow(asyncio.Event()))
    answers = [neighbour.push_nowait(_batch(str(number))) for number in range(3)]
    await neighbour.close()
    answers.append(neighbour.push_nowait(_batch("3")))
    for answer in answers:
        with pytest.raises(DrainingError, match="next"):
            await answer
