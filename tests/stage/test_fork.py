"""A stage that lanes share hands each batch on in the lane that it came from, also in one that came later."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt
from polku.errors import UnavailableError
from polku.link.link import Link, Window
from polku.stage.fork import Fork
from tests.buffer.parts import rest
from tests.link.test_link import Peer


class Lanes:
    """Make links with a window of one batch, and keep what came through them."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        self.fork = Fork("p/lane-", self.open_link)

    def open_link(self, number: int) -> Link:
        self.peers[number] = Peer()
        return Link(f"p/lane-{number}/s", self.peers[number], window=Window(batches=1, join_events=0))

    async def push(self, batch: Batch) -> asyncio.Future[Receipt]:
        answer = self.fork.push_nowait(batch)
        await rest()
        return answer

    def got(self, number: int) -> list[str]:
        return [event_id for _, batch in self.peers[number].pushes for event_id in batch.ids]

    async def answer(self, *numbers: int) -> None:
        for number in numbers:
            for answer in self.peers[number].answers:
                if not answer.done():
                    answer.set_result(Receipt())
        await rest()


def batch_of(lane: str, event_id: str = "1") -> Batch:
    batch = Batch.from_events([Event(id=event_id)])
    batch.identity = Identity(f"p/{lane}/ingest", 1, 1)
    return batch


def made_anew(source: str, event_id: str = "x") -> Batch:
    return Batch.from_events([Event(id=event_id, source=source)])


async def test_a_batch_goes_on_in_its_lane() -> None:
    lanes = Lanes()
    for lane in (2, 12, 1, 2):
        await lanes.push(batch_of(f"lane-{lane}", f"of {lane}"))
        await lanes.answer(lane)
    assert (lanes.got(1), lanes.got(2), lanes.got(12)) == (["of 1"], ["of 2", "of 2"], ["of 12"])
    await lanes.fork.close()
    with pytest.raises(UnavailableError, match="closed"):
        await lanes.fork.push_nowait(batch_of("lane-3"))


@pytest.mark.parametrize("origin", ["q/lane-1/ingest", "p/lane-x/ingest", "p"])
async def test_a_batch_of_no_lane_is_not_handed_to_another(origin: str) -> None:
    lanes = Lanes()
    await lanes.push(batch_of("lane-1"))
    batch = made_anew("s")
    batch.identity = Identity(origin, 1, 1)
    with pytest.raises(UnavailableError, match="belongs to no lane"):
        await lanes.fork.push_nowait(batch)
    assert lanes.got(1) == ["1"]


async def test_a_lane_is_known_when_a_batch_of_it_comes_that_is_held() -> None:
    lanes = Lanes()
    assert await lanes.fork.hears("p/lane-3/ingest")
    assert await lanes.fork.hears("nobody's")
    await lanes.push(made_anew("s"))
    assert lanes.got(3) == ["x"]
    assert list(lanes.peers) == [3]


async def test_a_lane_that_is_lost_is_served_no_more_and_what_waits_for_it_is_noticed() -> None:
    lanes = Lanes()
    await lanes.push(batch_of("lane-1"))
    await lanes.push(batch_of("lane-2"))
    await lanes.answer(1)
    assert not lanes.fork.serve(frozenset({1, 2}))
    assert lanes.fork.serve(frozenset({1}))
    assert not await lanes.fork.hears("p/lane-2/ingest")
    assert await lanes.fork.hears("p/lane-1/ingest")
    for source in "abcdef":
        await lanes.push(made_anew(source))
        await lanes.answer(1)
    assert lanes.got(1) == ["1", *"xxxxxx"]
    await lanes.answer(2)
    assert not lanes.fork.serve(frozenset({1}))
    assert lanes.fork.serve(frozenset({1, 2})) is False
    assert await lanes.fork.hears("p/lane-2/ingest")


async def test_a_lane_that_leaves_gets_what_came_from_it_and_nothing_else() -> None:
    lanes = Lanes()
    await lanes.push(batch_of("lane-1"))
    await lanes.answer(1)
    lanes.fork.serve(frozenset({1, 2}), frozenset({1}))
    assert lanes.fork.open(1) == 0
    await lanes.push(batch_of("lane-1", "last"))
    assert await lanes.fork.hears("p/lane-1/ingest")
    assert (lanes.fork.open(1), lanes.fork.open(2)) == (1, 0)
    for source in "abcdef":  # also where the other one was not heard from yet
        await lanes.push(made_anew(source))
        await lanes.answer(2)
    assert (lanes.got(1), lanes.got(2)) == (["1", "last"], [*"xxxxxx"])
    await lanes.answer(1)
    assert lanes.fork.open(1) == 0


async def test_one_that_is_told_which_lanes_to_serve_lets_nothing_in_before() -> None:
    fork = Fork("p/lane-", Lanes().open_link, told=True)
    lost, served = (asyncio.ensure_future(fork.hears(f"p/lane-{number}/ingest")) for number in (1, 2))
    await rest()
    assert not served.done()
    fork.serve(frozenset({2}))
    assert (await lost, await served) == (False, True)


async def test_a_lane_without_room_holds_up_no_other() -> None:
    lanes = Lanes()
    await asyncio.wait_for(lanes.fork.wait_room(), 30)  # nothing is known to be full
    await lanes.push(batch_of("lane-2", "never answered"))
    await lanes.push(batch_of("lane-1"))
    waits = asyncio.ensure_future(lanes.fork.wait_room())
    await rest()
    assert not waits.done()
    await lanes.answer(1)
    await asyncio.wait_for(waits, 30)
    await asyncio.wait_for(lanes.fork.wait_room(), 30)


async def test_what_is_made_anew_keeps_the_order_of_its_source_and_moves_only_to_a_lane_that_is_new() -> None:
    lanes = Lanes()
    with pytest.raises(UnavailableError, match="no lane is known"):
        await lanes.fork.push_nowait(made_anew("early"))
    sources = [f"source-{number}" for number in range(200)]
    where: list[dict[str, int]] = []
    for known in (1, 2, 3):
        await lanes.push(batch_of(f"lane-{known}"))
        await lanes.answer(known)
        for source in sources:
            answers = [lanes.fork.push_nowait(made_anew(source, f"{source} {known} {n}")) for n in range(3)]
            await rest()
            while not all(answer.done() for answer in answers):
                await lanes.answer(*lanes.peers)
        got = {number: lanes.got(number) for number in lanes.peers}
        where.append({s: n for n, ids in got.items() for s in sources if f"{s} {known} 0" in ids})
        for source in sources:
            mine = [event_id for event_id in got[where[-1][source]] if event_id.startswith(f"{source} {known} ")]
            assert mine == [f"{source} {known} {n}" for n in range(3)]
    for before, after, new in ((where[0], where[1], 2), (where[1], where[2], 3)):
        moved = [source for source in sources if before[source] != after[source]]
        assert all(after[source] == new for source in moved)
        assert 30 < len(moved) < 140
