"""A stage that lanes share hands each batch on in the lane that it came from, also in one that came later."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Event
from polku.batch import Identity
from polku.errors import UnavailableError
from polku.fork import Fork
from polku.link import Link, Window
from polku.receipt import Receipt
from tests.buffer.parts import rest
from tests.core.test_link import Peer


class Lanes:
    """Make links with a window of one batch; of the lanes that are not there yet, none."""

    def __init__(self, *there: int) -> None:
        self.peers = {number: Peer() for number in there}

    def open_link(self, number: int) -> Link:
        if number not in self.peers:
            raise UnavailableError(f"lane {number} is not there")
        return Link(f"p/lane-{number}/s", self.peers[number], window=Window(batches=1, join_events=0))

    def got(self, number: int) -> list[str]:
        return [event_id for _, batch in self.peers[number].pushes for event_id in batch.ids]

    def answer(self, number: int) -> None:
        for answer in self.peers[number].answers:
            if not answer.done():
                answer.set_result(Receipt())


def batch_of(lane: str, event_id: str = "1") -> Batch:
    batch = Batch.from_events([Event(id=event_id)])
    batch.identity = Identity(f"p/{lane}/ingest", 1, 1)
    return batch


def made_anew(source: str) -> Batch:
    return Batch.from_events([Event(id=source, source=source)])


async def test_a_batch_goes_on_in_its_lane_also_where_that_came_later() -> None:
    lanes = Lanes(1, 2)
    fork = Fork("p/lane-", [1, 2], lanes.open_link)
    fork.push_nowait(batch_of("lane-2", "two"))
    refused = fork.push_nowait(batch_of("lane-12", "early"))
    await rest()
    with pytest.raises(UnavailableError, match="lane 12 is not there"):
        await refused
    lanes.peers[12] = Peer()
    fork.push_nowait(batch_of("lane-12", "twelve"))
    await rest()
    assert (lanes.got(1), lanes.got(2), lanes.got(12)) == ([], ["two"], ["twelve"])
    await fork.close()
    with pytest.raises(UnavailableError, match="closed"):
        await fork.push_nowait(batch_of("lane-3"))


@pytest.mark.parametrize("origin", ["q/lane-1/ingest", "p/lane-x/ingest", "p"])
async def test_a_batch_of_no_lane_is_not_handed_to_another(origin: str) -> None:
    lanes = Lanes(1)
    fork = Fork("p/lane-", [1], lanes.open_link)
    batch = made_anew("s")
    batch.identity = Identity(origin, 1, 1)
    with pytest.raises(UnavailableError, match="belongs to no lane"):
        await fork.push_nowait(batch)
    assert lanes.got(1) == []


async def test_a_lane_that_is_away_holds_up_no_other() -> None:
    lanes = Lanes(1, 2)
    fork = Fork("p/lane-", [1, 2], lanes.open_link)
    fork.push_nowait(batch_of("lane-2", "never answered"))
    await rest()
    await asyncio.wait_for(fork.wait_room(), 1)  # lane 1 has room
    for source in "abcdef":  # some of these sources would choose lane 2
        fork.push_nowait(made_anew(source))
        await rest()
        lanes.answer(1)
        await rest()
    assert lanes.got(1) == list("abcdef")
    assert lanes.got(2) == ["never answered"]


async def test_without_room_in_any_lane_it_waits_for_the_first_that_has() -> None:
    lanes = Lanes(1, 2)
    fork = Fork("p/lane-", [1, 2], lanes.open_link)
    for lane in ("lane-1", "lane-2"):
        fork.push_nowait(batch_of(lane))
    await rest()
    waits = asyncio.ensure_future(fork.wait_room())
    await rest()
    assert not waits.done()
    lanes.answer(2)
    await asyncio.wait_for(waits, 1)


async def test_what_is_made_anew_keeps_the_order_of_its_source() -> None:
    lanes = Lanes(1, 2)
    fork = Fork("p/lane-", [1, 2], lanes.open_link)
    for _ in range(2):
        for source in "abcdefgh":
            fork.push_nowait(made_anew(source))
            await rest()
            for number in lanes.peers:
                lanes.answer(number)
            await rest()
    one, two = lanes.got(1), lanes.got(2)
    assert set(one) | set(two) == set("abcdefgh")
    assert one
    assert two
    assert not set(one) & set(two)
