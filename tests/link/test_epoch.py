"""A link gets through although its clock was set back, or another sender has its name."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from polku import Batch, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Answer, Receipt
from polku.errors import PastLifeError
from polku.link.epoch import new_epoch
from polku.link.link import Link, Push, Window
from polku.link.receiver import LinkReceiver
from tests.support.virtual_time import in_virtual_time

pytestmark = pytest.mark.usefixtures("both_ways")


class Direct:
    """Reach an inlet whose receiver writes down what is applied, and under which identity."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.identities: dict[str, Identity | None] = {}
        self.inlet = LinkReceiver(self, patience=0.01)

    async def push(self, one: Batch) -> Receipt:
        await asyncio.sleep(0)
        self.applied += one.ids
        self.identities.update(dict.fromkeys(one.ids, one.identity))
        return Receipt()


class Wire:
    def __init__(self, direct: Direct) -> None:
        self.direct = direct

    async def push(self, push: Push, batch: Batch) -> Answer:
        answer = await self.direct.inlet.push(push, batch)
        assert isinstance(answer, Receipt)
        return answer

    async def flush(self, everything: bool) -> None:
        raise AssertionError("nothing is held here")


def batch(event_id: str) -> Batch:
    return Batch.from_events([Event(id=event_id)])


def link_to(direct: Direct) -> Link:
    window = Window(batches=3, join_events=1)
    return Link("link", Wire(direct), window=window, retry_delay=lambda attempt: 0.001)


def test_epochs_rise_while_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1 << 62, 1 << 62, 1_000, 5])
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    monkeypatch.setattr("polku.link.epoch._latest", 0)
    epochs = [new_epoch() for _ in range(4)]
    assert epochs[0] == 1 << 62
    assert epochs == sorted(set(epochs))


def test_two_senders_that_hear_of_the_same_epoch_take_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = set()
    for _ in range(20):
        monkeypatch.setattr("polku.link.epoch._latest", 0)  # as in a process of its own
        taken.add(new_epoch(above=1 << 62))
    assert len(taken) == 20
    assert min(taken) > 1 << 62


def test_the_refusal_of_a_past_life_says_the_epoch_also_in_another_process() -> None:
    error = pickle.loads(pickle.dumps(PastLifeError("past", epoch=7)))
    assert (str(error), error.epoch, error.died) == ("past", 7, False)


@in_virtual_time
async def test_a_sender_whose_past_life_had_a_clock_ahead_gets_through_in_order() -> None:
    direct = Direct()
    past = link_to(direct)
    past._numbering.epoch += 3_600 * 10**9
    await past.push(batch("past"))
    link = link_to(direct)
    assert link.epoch < past.epoch
    first = link.epoch
    sent = [f"{number:02d}" for number in range(20)]
    await asyncio.wait_for(asyncio.gather(*(link.push(batch(one)) for one in sent)), 30)
    assert direct.applied == ["past", *sent]
    assert link.epoch > past.epoch
    # The refused batch keeps its identity: what comes behind the receiver may have seen it under that one.
    assert direct.identities["00"] == Identity("link", first, 1)
    assert direct.identities["19"] == Identity("link", link.epoch, 20)


@in_virtual_time
async def test_two_senders_of_one_name_both_get_through() -> None:
    direct = Direct()
    one, two = link_to(direct), link_to(direct)
    sent = [f"{name}-{number}" for number in range(40) for name in ("one", "two")]
    answers = [(one if name.startswith("one") else two).push_nowait(batch(name)) for name in sent]
    await asyncio.wait_for(asyncio.gather(*answers), 30)
    assert set(direct.applied) == set(sent)
    identities = [identity for identity in direct.identities.values() if identity is not None]
    assert len(set(identities)) == len(sent)
