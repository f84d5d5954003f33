"""A few events wait for more where that makes a batch of many, and never where it only makes them late."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from msgspec.structs import replace

from polku import new_event
from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt
from polku.link.link import Link, Push, Window

WINDOW = Window(batches=2, gather_events=10, gather_turns=4)


class Receiver:
    """Answer when the test says so."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.answers: list[asyncio.Future[Receipt]] = []

    async def push(self, push: Push, batch: Batch) -> Answer:
        self.batches.append(len(batch))
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def flush(self, everything: bool) -> None:
        raise AssertionError("nothing is held here")


def batch_of(count: int) -> Batch:
    return Batch.from_events([new_event("test.gathered") for _ in range(count)])


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let turns of the event loop alone decide, however slow this machine is."""
    monkeypatch.setattr("polku.link.coalescing._BUSY_SECONDS", 60)


async def test_a_batch_that_comes_alone_leaves_at_once(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    link.push_nowait(batch_of(1))
    await turns(1)
    assert receiver.batches == [1]
    await link.close()


async def test_of_those_that_come_alone_one_in_128_waits_for_others(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    waited = []
    for number in range(400):
        link.push_nowait(batch_of(1))
        await turns(2)
        if len(receiver.batches) == number:
            waited.append(number)
        await turns()
        receiver.answers[-1].set_result(Receipt())
        await turns()
    assert receiver.batches == [1] * 400
    assert [after - before for before, after in pairwise(waited)] == [128, 128, 128]
    await link.close()


@pytest.mark.usefixtures("unhurried")
async def test_what_never_ends_to_come_is_not_waited_for(receiver: Receiver) -> None:
    link = Link("link", receiver, window=replace(WINDOW, gather_events=1_000))
    link.push_nowait(batch_of(1))
    await turns()
    link.push_nowait(batch_of(1))
    receiver.answers[0].set_result(Receipt())
    for _ in range(100):
        link.push_nowait(batch_of(1))
        await turns(1)
    first, second = receiver.batches
    assert first == 1
    assert second in range(15, 25)
    await link.close()


@pytest.mark.usefixtures("unhurried")
async def test_when_others_have_come_the_next_ones_wait_too(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    for _ in range(3):
        link.push_nowait(batch_of(1))
        await turns()
    receiver.answers[0].set_result(Receipt())
    await turns()
    receiver.answers[1].set_result(Receipt())
    await turns()
    link.push_nowait(batch_of(1))
    await turns(2)
    assert receiver.batches == [1, 2]
    link.push_nowait(batch_of(1))
    await turns()
    assert receiver.batches == [1, 2, 2]
    await link.close()


@pytest.mark.usefixtures("unhurried")
async def test_few_events_wait_while_a_batch_is_under_way_and_then_leave_as_one(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    answers = [link.push_nowait(batch_of(1))]
    await turns()
    answers += [link.push_nowait(batch_of(1)) for _ in range(3)]
    await turns()
    assert receiver.batches == [1]
    receiver.answers[0].set_result(Receipt())
    await turns()
    assert receiver.batches == [1, 3]
    receiver.answers[1].set_result(Receipt())
    assert await asyncio.gather(*answers) == [Receipt()] * 4
    await link.close()


async def test_many_events_do_not_wait(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    link.push_nowait(batch_of(1))
    link.push_nowait(batch_of(6))
    await turns()
    assert receiver.batches == [1]
    link.push_nowait(batch_of(4))
    await turns(1)
    assert receiver.batches == [1, 10]
    await link.close()


async def test_what_comes_side_by_side_waits_until_no_more_comes(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    link.push_nowait(batch_of(1))
    await turns()
    link.push_nowait(batch_of(1))
    link.push_nowait(batch_of(1))
    receiver.answers[0].set_result(Receipt())
    for _ in range(3):
        await turns(2)
        assert receiver.batches == [1]
        link.push_nowait(batch_of(1))
    await turns()
    assert receiver.batches == [1, 5]
    await link.close()


@pytest.mark.usefixtures("unhurried")
async def test_a_window_for_several_receivers_is_filled_by_half_before_anything_waits(receiver: Receiver) -> None:
    link = Link("link", receiver, window=replace(WINDOW, batches=4))
    link.push_nowait(batch_of(1))
    await turns()
    link.push_nowait(batch_of(2))
    await turns()
    link.push_nowait(batch_of(3))
    await turns()
    assert receiver.batches == [1, 2]
    await link.close()


async def test_a_closed_link_listens_no_more(receiver: Receiver) -> None:
    link = Link("link", receiver, window=replace(WINDOW, gather_turns=1_000_000))
    link.push_nowait(batch_of(1))
    await turns()
    link.push_nowait(batch_of(1))
    link.push_nowait(batch_of(1))
    receiver.answers[0].set_result(Receipt())
    await turns()
    await link.close()
    await turns()
    assert receiver.batches == [1]


async def test_a_few_events_do_not_wait_for_an_answer_that_takes_long(receiver: Receiver) -> None:
    link = Link("link", receiver, window=WINDOW)
    link.push_nowait(batch_of(20))
    await turns()
    link.push_nowait(batch_of(1))
    await turns()
    assert receiver.batches == [20]
    async with asyncio.timeout(30):
        while receiver.batches != [20, 1]:  # noqa: ASYNC110 - a timer brings it about
            await asyncio.sleep(0.005)
    assert not receiver.answers[0].done()
    for answer in receiver.answers:
        answer.set_result(Receipt())
    await link.drain()
    await link.close()
