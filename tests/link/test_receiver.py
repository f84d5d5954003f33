"""An inlet applies what it has not applied yet, in order, and answers everybody who asks."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Event
from polku.batch.receipt import Accepted, Answer, Receipt, Turn
from polku.errors import PastLifeError, UnavailableError
from polku.link.link import Push
from polku.link.receiver import LinkReceiver, LinkReceiverStatistics
from tests.buffer.parts import rest

pytestmark = pytest.mark.usefixtures("both_ways")


class Receiver:
    """Write down what is applied; answer when the gate is open, `Accepted` first if asked to."""

    def __init__(self, *, is_open: bool = True, accepts_first: bool = False) -> None:
        self.applied: list[str] = []
        self.gate = asyncio.Event()
        self.accepts_first = accepts_first
        if is_open:
            self.gate.set()

    async def push(self, batch: Batch) -> Answer:
        self.applied += batch.ids
        outcome = asyncio.ensure_future(self._outcome())
        return Accepted(outcome) if self.accepts_first else await outcome

    async def _outcome(self) -> Receipt:
        await self.gate.wait()
        return Receipt()


def batch(number: int) -> Batch:
    return Batch.from_events([Event(id=str(number))])


def push(
    inlet: LinkReceiver, seq: int, *, floor: int = 1, after: int = 0, epoch: int = 1
) -> asyncio.Future[Answer | Turn]:
    return asyncio.ensure_future(inlet.push(Push("link", epoch, seq, floor, after), batch(seq)))


async def test_a_batch_that_comes_twice_is_applied_once_and_both_get_the_answer() -> None:
    receiver = Receiver(is_open=False)
    inlet = LinkReceiver(receiver)
    answers = [push(inlet, 1), push(inlet, 1)]
    await rest()
    answers.append(push(inlet, 1))
    assert receiver.applied == ["1"]
    receiver.gate.set()
    assert await asyncio.gather(*answers) == [Receipt()] * 3
    assert inlet.statistics() == LinkReceiverStatistics(1, 2, 0)


async def test_a_batch_that_comes_too_early_waits_for_its_predecessor() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    early = [push(inlet, 3, after=2), push(inlet, 2, after=1)]
    await rest()
    assert receiver.applied == []
    await asyncio.gather(push(inlet, 1), *early)
    assert receiver.applied == ["1", "2", "3"]


async def test_behind_a_predecessor_that_was_answered_meanwhile_comes_the_one_before_that() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)  # started again: 2 is open and comes again, 3 had its answer from the life before
    fifth = asyncio.ensure_future(inlet.push(Push("link", 1, 5, 2, 4, (2, 4)), batch(5)))
    fourth = push(inlet, 4, floor=2, after=3)  # sent while 3 was open
    await rest()
    assert receiver.applied == []
    await asyncio.gather(push(inlet, 2, floor=2), fourth, fifth)
    assert receiver.applied == ["2", "4", "5"]


async def test_a_predecessor_that_its_sender_has_the_answer_of_is_not_waited_for() -> None:
    receiver = Receiver()
    await push(LinkReceiver(receiver), 7, floor=7)
    assert receiver.applied == ["7"]


async def test_an_early_batch_whose_predecessor_never_comes_is_given_back() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver, patience=0.0)
    with pytest.raises(UnavailableError, match="missing"):
        await push(inlet, 2, after=1)
    await push(inlet, 2, floor=2)
    assert receiver.applied == ["2"]


async def test_an_early_batch_is_given_back_also_if_it_made_another_one_ready() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver, patience=0.0)
    ready, early = push(inlet, 2, after=1), push(inlet, 4, floor=2, after=3)
    assert await ready == Receipt()
    with pytest.raises(UnavailableError, match="missing"):
        await asyncio.wait_for(early, 30)
    assert receiver.applied == ["2"]


async def test_an_early_batch_that_its_sender_has_the_answer_of_is_not_applied_and_not_kept_waiting() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    late_copy = push(inlet, 2, after=1)
    await rest()
    await push(inlet, 3, floor=3)
    with pytest.raises(UnavailableError, match="had the final answer"):
        await asyncio.wait_for(late_copy, 30)
    assert receiver.applied == ["3"]
    assert inlet.statistics().open == 0


async def test_a_late_copy_does_not_make_a_batch_wait_again() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    first = push(inlet, 3, after=2)
    await rest()
    copies = [push(inlet, 3, after=1), push(inlet, 3, after=2)]  # 2 was answered in a past life of the receiver
    await rest()
    await asyncio.gather(push(inlet, 1), first, *copies)
    assert receiver.applied == ["1", "3"]


async def test_a_copy_of_what_was_answered_long_ago_is_refused() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    await push(inlet, 1)
    await push(inlet, 2, floor=2)
    with pytest.raises(UnavailableError, match="had the final answer"):
        await push(inlet, 1)
    assert receiver.applied == ["1", "2"]


async def test_what_is_held_is_taken_at_once_and_settled_later() -> None:
    receiver = Receiver(is_open=False, accepts_first=True)
    inlet = LinkReceiver(receiver)
    assert isinstance(await push(inlet, 1), Accepted)
    assert isinstance(await push(inlet, 1), Accepted)
    settled = asyncio.ensure_future(inlet.outcome(Push("link", 1, 1, 1, 0)))
    await rest()
    assert not settled.done()
    receiver.gate.set()
    assert await settled == Receipt()
    assert receiver.applied == ["1"]


async def test_the_outcome_of_an_unknown_batch_must_be_asked_for_by_a_push() -> None:
    with pytest.raises(UnavailableError, match="not known"):
        await LinkReceiver(Receiver()).outcome(Push("link", 1, 1, 1, 0))


async def test_a_caller_that_gives_up_does_not_take_the_batch_back() -> None:
    receiver = Receiver(is_open=False)
    inlet = LinkReceiver(receiver)
    impatient = push(inlet, 1)
    await rest()
    impatient.cancel()
    again = push(inlet, 1)
    receiver.gate.set()
    assert await again == Receipt()
    assert receiver.applied == ["1"]


async def test_links_do_not_wait_for_each_other() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    early = push(inlet, 2, after=1)
    await inlet.push(Push("other", 1, 1, 1, 0), batch(9))
    assert receiver.applied == ["9"]
    await asyncio.gather(push(inlet, 1), early)


async def test_a_batch_that_the_receiver_could_not_take_is_applied_when_it_comes_again() -> None:
    class Recovering(Receiver):
        async def push(self, batch: Batch) -> Answer:
            self.applied += batch.ids
            if len(self.applied) == 1:
                raise MemoryError("not now")
            outcome: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            if len(self.applied) == 2:
                outcome.set_exception(UnavailableError("lost behind"))
            else:
                outcome.set_result(Receipt())
            return Accepted(outcome)

    receiver = Recovering()
    inlet = LinkReceiver(receiver)
    with pytest.raises(MemoryError, match="not now"):
        await push(inlet, 1)
    assert isinstance(await push(inlet, 1), Accepted)
    with pytest.raises(UnavailableError):
        await inlet.outcome(Push("link", 1, 1, 1, 0))
    assert isinstance(await push(inlet, 1), Accepted)
    assert await inlet.outcome(Push("link", 1, 1, 1, 0)) == Receipt()
    assert receiver.applied == ["1", "1", "1"]


async def test_state_stays_small_while_one_number_is_open_and_late_copies_of_the_others_are_refused() -> None:
    class HoldsTheFirst(Receiver):
        async def push(self, batch: Batch) -> Answer:
            self.applied += batch.ids
            if batch.ids != ["1"]:
                return Receipt()
            return Accepted(asyncio.get_running_loop().create_future())

    receiver = HoldsTheFirst()
    inlet = LinkReceiver(receiver)
    assert isinstance(await push(inlet, 1), Accepted)
    for seq in range(2, 3_000):  # two are in the window: only `gap` tells that those before them were answered
        await inlet.push(Push("link", 1, seq, 1, seq - 1, (1, seq - 1)), batch(seq))
    sender = inlet._senders["link"]
    assert len(sender.entries) == len(sender.after) == 3
    assert len(sender.closed) == 2
    for seq in (2, 1_500, 2_997):
        with pytest.raises(UnavailableError, match="had the final answer"):
            await push(inlet, seq, after=1)
    assert isinstance(await push(inlet, 1), Accepted)
    assert receiver.applied == [str(seq) for seq in range(1, 3_000)]


async def test_a_later_life_of_a_sender_sends_back_what_waits_of_the_past_one() -> None:
    receiver = Receiver()
    inlet = LinkReceiver(receiver)
    early = push(inlet, 2, after=1)
    await rest()
    await push(inlet, 1, epoch=2)
    with pytest.raises(PastLifeError) as refused:
        await asyncio.wait_for(early, 30)
    assert refused.value.epoch == 2
    assert receiver.applied == ["1"]
