"""A link finds the event that kills its receiver: suspects go one at a time, a culprit goes in parts."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Code, Event
from polku.batch.receipt import Answer, Receipt, Refusal, Turn
from polku.errors import UnavailableError
from polku.link.link import Link, Push, Window
from polku.link.receiver import LinkReceiver
from tests.support.peers import HoldsNothing
from tests.support.virtual_time import in_virtual_time


class Mortal:
    """A receiver that dies of some events, with everything that is under way to it, and comes back empty."""

    def __init__(self, deadly: set[str]) -> None:
        self.deadly = deadly
        self.deaths = 0
        self.applied: list[str] = []
        self.rise()

    def rise(self) -> None:
        self.died = asyncio.get_running_loop().create_future()
        self.inlet = LinkReceiver(self, patience=0.01)

    async def push(self, batch: Batch) -> Receipt:
        life = self.died
        await asyncio.sleep(0.001)
        if life.done():
            await asyncio.sleep(3600)
        if self.deadly & set(batch.ids):
            self.deaths += 1
            died = self.died
            self.rise()
            died.set_result(None)
            await asyncio.sleep(3600)
        self.applied += batch.ids
        return Receipt()


class Wire(HoldsNothing):
    """Reach a mortal receiver; whoever waits for an answer when it dies hears so."""

    def __init__(self, receiver: Mortal) -> None:
        self.receiver = receiver

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        died = self.receiver.died
        answer = asyncio.ensure_future(self.receiver.inlet.push(push, batch))
        await asyncio.wait((answer, died), return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            answer.cancel()
            raise UnavailableError("died", died=True)
        return answer.result()


def batch(start: int, count: int) -> Batch:
    return Batch.from_events([Event(id=f"{number:03d}") for number in range(start, start + count)])


@pytest.mark.parametrize("deadly", [set(), {"000"}, {"057"}, {"000", "057", "058", "119"}, {"020", "021", "022"}])
@in_virtual_time
async def test_only_the_events_that_kill_are_refused_and_all_others_are_applied(deadly: set[str]) -> None:
    buried: list[str] = []

    def bury(one: Batch, refused: tuple[Refusal, ...]) -> None:
        buried.extend(one.ids)

    receiver = Mortal(deadly)
    link = Link("link", Wire(receiver), window=Window(join_events=0), retry_delay=lambda attempt: 0, bury=bury)
    sent = [batch(0, 20), batch(20, 3), batch(23, 97)]
    receipts = await asyncio.wait_for(asyncio.gather(*(link.push(one) for one in sent)), 30)
    refused = [refusal for receipt in receipts for refusal in receipt.refused]
    assert {refusal.event_id for refusal in refused} == deadly
    assert {refusal.code for refusal in refused} <= {Code.POISON}
    assert set(buried) == deadly
    assert len(buried) == len(deadly)
    assert set(receiver.applied) == {f"{number:03d}" for number in range(120)} - deadly
    await link.close()


@pytest.mark.parametrize(("count", "deaths"), [(1, 3), (2, 4), (8, 5), (100, 6)])
@in_virtual_time
async def test_a_batch_is_divided_at_the_first_death_that_only_it_can_have_caused(count: int, deaths: int) -> None:
    receiver = Mortal({"000"})
    link = Link("link", Wire(receiver), window=Window(join_events=0), retry_delay=lambda attempt: 0)
    receipt = await link.push(batch(0, count))
    assert [refusal.event_id for refusal in receipt.refused] == ["000"]
    assert receiver.deaths == deaths  # among others, each event that is taken out killed alone twice
    await link.close()


@in_virtual_time
async def test_who_only_travelled_beside_a_culprit_is_cleared_and_applied_whole() -> None:
    receiver = Mortal({"000"})
    link = Link("link", Wire(receiver), window=Window(join_events=0), retry_delay=lambda attempt: 0)
    culprit, innocent = await asyncio.gather(link.push(batch(0, 1)), link.push(batch(1, 50)))
    assert [refusal.event_id for refusal in culprit.refused] == ["000"]
    assert innocent.refused == ()
    assert receiver.applied == [f"{number:03d}" for number in range(1, 51)]
    assert receiver.deaths == 3
    await link.close()
