"""A batch under suspicion is worked on alone, whoever else sends; others wait for a bounded time."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Event
from polku.batch.receipt import Accepted, Answer, Receipt, Turn
from polku.errors import UnavailableError
from polku.link.link import Push
from polku.link.quarantine import Patience
from polku.link.receiver import LinkReceiver
from tests.buffer.parts import rest
from tests.support.virtual_time import in_virtual_time

pytestmark = pytest.mark.usefixtures("both_ways")

SHORT = Patience(quiet=0.01, push=0.01, work=0.01, held=0.01)


class Receiver:
    """Work on each batch until the test opens its gate; hold those that it was told to, until a flush."""

    def __init__(self, *held: str) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []
        self.to_hold = held
        self.held: dict[str, asyncio.Future[Receipt]] = {}
        self.flushes = 0
        self.releases = True

    async def push(self, batch: Batch) -> Answer:
        (name,) = batch.ids
        self.begun.append(name)
        if name in self.to_hold:
            self.held[name] = asyncio.get_running_loop().create_future()
            return Accepted(self.held[name])
        await self.gates.setdefault(name, asyncio.Event()).wait()
        return Receipt(buffer_size=len(self.begun))

    async def flush(self, everything: bool) -> None:
        self.flushes += 1
        for outcome in self.held.values():
            if self.releases and not outcome.done():
                outcome.set_result(Receipt(buffer_size=99))

    def open(self, *names: str) -> None:
        for name in names:
            self.gates.setdefault(name, asyncio.Event()).set()


Pushed = asyncio.Future[Answer | Turn]


def push(
    inlet: LinkReceiver, link: str, seq: int = 1, *, alone: bool = False, after: int = 0, floor: int = 1
) -> Pushed:
    one = Batch.from_events([Event(id=f"{link}{seq}")])
    return asyncio.ensure_future(inlet.push(Push(link, 1, seq, floor, after, alone=alone), one))


async def hear(inlet: LinkReceiver, link: str) -> Answer | Turn:
    """Push until there is an answer, as a link does."""
    alone = True
    while isinstance(answer := await push(inlet, link, alone=alone), Turn):
        alone = answer.alone
    return answer


@in_virtual_time
async def test_a_turn_comes_when_all_else_is_done_and_nothing_begins_until_it_is_over() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    before = push(inlet, "a")
    await rest()
    asked = push(inlet, "b", alone=True)
    await rest()
    after = push(inlet, "a", 2, after=1)
    await rest()
    assert receiver.begun == ["a1"]
    assert not asked.done()
    receiver.open("a1")
    assert await asked == Turn(alone=True)
    await rest()
    assert before.done()
    assert receiver.begun == ["a1"]
    alone = push(inlet, "b", alone=True)
    await rest()
    assert receiver.begun == ["a1", "b1"]
    receiver.open("b1")
    assert await alone == Turn(alone=False)
    await rest()
    assert receiver.begun == ["a1", "b1"]  # its sender might not hear that before the receiver dies of another one
    assert await push(inlet, "b") == Receipt(buffer_size=2)
    await rest()
    assert receiver.begun == ["a1", "b1", "a2"]
    receiver.open("a2")
    assert await after == Receipt(buffer_size=3)


@in_virtual_time
async def test_what_others_hold_is_released_before_a_turn_and_what_is_held_in_it_before_its_end() -> None:
    receiver = Receiver("a1", "b1")
    inlet = LinkReceiver(receiver)
    assert isinstance(await push(inlet, "a"), Accepted)
    assert await push(inlet, "b", alone=True) == Turn(alone=True)
    assert receiver.held["a1"].done()
    assert await push(inlet, "b", alone=True) == Turn(alone=False)
    assert receiver.flushes == 2
    assert receiver.held["b1"].done()
    assert isinstance(await push(inlet, "b"), Accepted)


@in_virtual_time
async def test_who_is_held_for_longer_than_its_turn_is_told_that_it_is_no_longer_alone() -> None:
    receiver = Receiver("b1")
    receiver.releases = False
    inlet = LinkReceiver(receiver, alone=SHORT)
    assert await push(inlet, "b", alone=True) == Turn(alone=True)
    assert await push(inlet, "b", alone=True) == Turn(alone=False)
    assert isinstance(await push(inlet, "b"), Accepted)
    other = push(inlet, "a")
    receiver.open("a1")
    await asyncio.wait_for(other, 30)
    assert receiver.begun == ["b1", "a1"]


@in_virtual_time
async def test_work_that_takes_longer_than_a_turn_goes_on_next_to_others() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver, alone=SHORT)
    assert await push(inlet, "b", alone=True) == Turn(alone=True)
    assert await push(inlet, "b", alone=True) == Turn(alone=False)
    again, other = push(inlet, "b"), push(inlet, "a")
    receiver.open("a1", "b1")
    await asyncio.wait_for(asyncio.gather(again, other), 30)
    assert receiver.begun == ["b1", "a1"]


@in_virtual_time
async def test_where_others_are_not_done_in_time_there_is_no_turn() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver, alone=SHORT)
    before = push(inlet, "a")
    await rest()
    assert await push(inlet, "b", alone=True) == Turn(alone=False)
    after = push(inlet, "b")
    receiver.open("a1", "b1")
    await asyncio.wait_for(asyncio.gather(before, after), 30)


@in_virtual_time
async def test_a_turn_that_its_sender_does_not_take_passes() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver, alone=SHORT)
    assert await push(inlet, "b", alone=True) == Turn(alone=True)
    receiver.open("a1", "b1")
    await asyncio.wait_for(push(inlet, "a"), 30)
    assert receiver.begun == ["a1"]
    assert await hear(inlet, "b") == Receipt(buffer_size=2)


@in_virtual_time
async def test_a_turn_whose_end_its_sender_does_not_hear_of_passes() -> None:
    receiver = Receiver()
    receiver.open("a1", "b1")
    inlet = LinkReceiver(receiver, alone=SHORT)
    for _ in range(2):
        await push(inlet, "b", alone=True)
    await asyncio.wait_for(push(inlet, "a"), 30)
    assert receiver.begun == ["b1", "a1"]


@in_virtual_time
async def test_a_turn_ends_with_a_failure_of_the_receiver() -> None:
    class Fails(Receiver):
        async def push(self, batch: Batch) -> Answer:
            await super().push(batch)
            raise ValueError("broken")

    receiver = Fails()
    receiver.open("a1", "b1")
    inlet = LinkReceiver(receiver)
    assert await push(inlet, "b", alone=True) == Turn(alone=True)
    with pytest.raises(ValueError, match="broken"):
        await push(inlet, "b", alone=True)
    with pytest.raises(ValueError, match="broken"):
        await asyncio.wait_for(push(inlet, "a"), 30)


@in_virtual_time
async def test_turns_come_one_after_the_other_and_what_waits_begins_between_them() -> None:
    receiver = Receiver()
    receiver.open("a1", "b1", "c1")
    inlet = LinkReceiver(receiver)
    first, second = push(inlet, "b", alone=True), push(inlet, "c", alone=True)
    assert await first == Turn(alone=True)
    third = push(inlet, "a")
    await rest()
    assert not second.done()
    assert isinstance(await hear(inlet, "b"), Receipt)
    assert await second == Turn(alone=True)
    assert isinstance(await hear(inlet, "c"), Receipt)
    await third
    assert receiver.begun == ["b1", "a1", "c1"]


@in_virtual_time
async def test_a_copy_of_a_push_that_asked_for_a_turn_gets_the_same_answer() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    assert await asyncio.gather(*(push(inlet, "b", alone=True) for _ in range(3))) == [Turn(alone=True)] * 3
    copies = [push(inlet, "b", alone=True) for _ in range(2)]
    receiver.open("b1")
    assert await asyncio.gather(*copies) == [Turn(alone=False)] * 2
    assert await push(inlet, "b") == Receipt(buffer_size=1)
    assert await push(inlet, "b", alone=True) == Turn(alone=False)
    assert receiver.begun == ["b1"]


@in_virtual_time
async def test_a_suspect_whose_predecessor_is_missing_gives_its_turn_back() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver, patience=0.01)
    assert await push(inlet, "b", 2, after=1, alone=True) == Turn(alone=True)
    with pytest.raises(UnavailableError, match="missing"):
        await push(inlet, "b", 2, after=1, alone=True)
    receiver.open("a1")
    await asyncio.wait_for(push(inlet, "a"), 30)
