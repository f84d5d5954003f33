"""A link pushes in order, within its window, and tells each caller about its own events."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polku import Batch, Code, Event, Refusal
from polku.batch.batch import Identity
from polku.batch.receipt import Accepted, Answer, Receipt
from polku.errors import UnavailableError
from polku.link.link import Link, LinkStatistics, Push, Window
from tests.buffer.parts import rest
from tests.support.peers import HoldsNothing

pytestmark = pytest.mark.usefixtures("both_ways")


class Peer(HoldsNothing):
    """Write down every push and let the test answer it."""

    def __init__(self) -> None:
        self.pushes: list[tuple[Push, Batch]] = []
        self.answers: list[asyncio.Future[Answer]] = []
        self.settled: dict[int, asyncio.Future[Receipt]] = {}

    async def push(self, push: Push, batch: Batch) -> Answer:
        self.pushes.append((push, batch))
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def accept(self, place: int, seq: int) -> None:
        """Accept the batch of a push; `settled` is its outcome."""
        self.settled[seq] = asyncio.get_running_loop().create_future()
        self.answers[place].set_result(Accepted(self.settled[seq]))

    @property
    def seqs(self) -> list[int]:
        return [push.seq for push, _ in self.pushes]

    @property
    def under_way(self) -> list[Batch]:
        return [batch for (_, batch), answer in zip(self.pushes, self.answers, strict=True) if not answer.done()]


def batch(*ids: str, payload: bytes = b"") -> Batch:
    return Batch.from_events([Event(id=i, payload=payload) for i in ids])


def link_to(peer: Peer, *, batches: int = 1, join_events: int = 100) -> Link:
    window = Window(batches=batches, join_events=join_events)
    return Link("link", peer, window=window, retry_delay=lambda attempt: 0.0)


async def test_callers_whose_batches_travelled_together_hear_about_their_own_events() -> None:
    peer = Peer()
    link = link_to(peer)
    answers = [link.push_nowait(batch(*ids)) for ids in (["0"], ["1", "2"], ["3"])]
    await rest()
    peer.answers[0].set_result(Receipt())
    await rest()
    assert peer.pushes[1][1].ids == ["1", "2", "3"]
    refusals = (Refusal("2", Code.BUFFER_FULL, "full"), Refusal("3", Code.BUFFER_FULL, "full"))
    peer.answers[1].set_result(Receipt(refusals, buffer_size=7))
    receipts = await asyncio.gather(*answers)
    assert [[refusal.event_id for refusal in receipt.refused] for receipt in receipts] == [[], ["2"], ["3"]]
    assert [receipt.buffer_size for receipt in receipts] == [0, 7, 7]


async def test_a_push_whose_outcome_is_unknown_is_repeated_under_its_number() -> None:
    peer = Peer()
    link = link_to(peer)
    answer = link.push_nowait(batch("1"))
    await rest()
    peer.answers[0].set_exception(UnavailableError("lost"))
    await asyncio.sleep(0.001)
    await rest()
    assert peer.pushes[0] == peer.pushes[1]
    peer.answers[1].set_result(Receipt())
    await answer
    assert link.statistics() == LinkStatistics(1, 2, 1, 0, 0)


async def test_a_batch_whose_outcome_is_lost_after_it_was_taken_is_pushed_again() -> None:
    peer = Peer()
    link = link_to(peer)
    answer = link.push_nowait(batch("1"))
    await rest()
    peer.accept(0, 1)
    await rest()
    peer.settled[1].set_exception(UnavailableError("restarted"))
    await asyncio.sleep(0.001)
    await rest()
    assert peer.seqs == [1, 1]
    peer.answers[1].set_result(Receipt())
    assert await answer == Receipt()


async def test_what_is_taken_leaves_the_window_and_stays_open() -> None:
    peer = Peer()
    link = link_to(peer)
    answers = [link.push_nowait(batch(str(n))) for n in range(2)]
    await rest()
    peer.accept(0, 1)
    await rest()
    assert peer.seqs == [1, 2]
    assert link.statistics().open == 2
    peer.answers[1].set_result(Receipt())
    assert await answers[1] == Receipt()
    assert not answers[0].done()
    peer.settled[1].set_result(Receipt(buffer_size=3))
    assert (await answers[0]).buffer_size == 3
    await link.drain()


async def test_a_push_says_what_is_answered_and_what_it_comes_after() -> None:
    peer = Peer()
    link = link_to(peer, batches=3, join_events=1)
    for n in range(3):
        link.push_nowait(batch(str(n)))
    await rest()
    assert [(push.floor, push.after) for push, _ in peer.pushes] == [(1, 0), (1, 1), (1, 2)]
    peer.answers[1].set_result(Receipt())
    link.push_nowait(batch("3"))
    await rest()
    peer.answers[0].set_result(Receipt())
    await rest()
    link.push_nowait(batch("4"))
    await rest()
    assert [(push.seq, push.floor, push.after) for push, _ in peer.pushes[3:]] == [(4, 1, 3), (5, 3, 4)]


async def test_a_batch_alone_keeps_its_identity_and_joined_ones_get_a_new_one() -> None:
    peer = Peer()
    link = link_to(peer)
    for n in range(3):
        one = batch(str(n))
        one.identity = Identity("first", 1, n + 1)
        link.push_nowait(one)
    await rest()
    peer.answers[0].set_result(Receipt())
    await rest()
    assert [b.identity for _, b in peer.pushes] == [Identity("first", 1, 1), Identity("link", link.epoch, 2)]


async def test_the_window_has_room_when_nothing_waits_and_a_place_is_free() -> None:
    peer = Peer()
    link = link_to(peer, join_events=1)
    await link.wait_room()
    for n in range(2):
        link.push_nowait(batch(str(n)))
    room = asyncio.ensure_future(link.wait_room())
    backlog = asyncio.ensure_future(link.wait_backlog())
    await rest()
    assert not room.done()
    assert not backlog.done()
    peer.answers[0].set_result(Receipt())
    await rest()
    assert not room.done()
    assert backlog.done()
    peer.answers[1].set_result(Receipt())
    await room


async def test_who_waits_for_room_is_let_go_when_the_link_closes() -> None:
    link = link_to(Peer())
    link.push_nowait(batch("1")).add_done_callback(lambda answer: answer.exception())
    room = asyncio.ensure_future(link.wait_room())
    await rest()
    await link.close()
    await asyncio.wait_for(room, 30)


async def test_a_caller_that_gives_up_disturbs_nobody() -> None:
    peer = Peer()
    link = link_to(peer)
    impatient, other = link.push_nowait(batch("1")), link.push_nowait(batch("2"))
    await rest()
    impatient.cancel()
    peer.answers[0].set_result(Receipt())
    await rest()
    peer.answers[1].set_result(Receipt())
    assert await other == Receipt()
    await link.drain()


async def test_an_error_that_is_no_unknown_outcome_is_the_caller_s_answer_and_the_link_goes_on() -> None:
    peer = Peer()
    link = link_to(peer)
    first, second = link.push_nowait(batch("1")), link.push_nowait(batch("2"))
    await rest()
    peer.answers[0].set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await first
    await rest()
    peer.answers[1].set_result(Receipt())
    assert await second == Receipt()


@settings(deadline=None)
@given(
    window=st.builds(
        Window,
        st.integers(1, 4),
        st.integers(1, 300),
        join_events=st.integers(1, 8),
        join_bytes=st.integers(1, 300),
        gather_events=st.integers(0, 6),
        gather_turns=st.integers(0, 3),
    ),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 60)), min_size=1, max_size=20),
    picks=st.lists(st.integers(0, 3), max_size=20),
)
@example(window=Window(2, 100, 8, 300), sizes=[(1, 40)] * 6, picks=[1])
def test_the_window_is_never_exceeded_and_a_batch_that_is_larger_goes_alone(
    window: Window, sizes: list[tuple[int, int]], picks: list[int]
) -> None:
    asyncio.run(_check_window(window, sizes, picks))


async def _check_window(window: Window, sizes: list[tuple[int, int]], picks: list[int]) -> None:
    peer = Peer()
    link = Link("link", peer, window=window)
    batches = [batch(*(f"{n}.{i}" for i in range(count)), payload=b"." * size) for n, (count, size) in enumerate(sizes)]
    largest = max(one.size_hint for one in batches)
    answers = [link.push_nowait(one) for one in batches]
    choices = iter(picks)
    while not all(answer.done() for answer in answers):
        await rest()
        under_way = peer.under_way
        assert 1 <= len(under_way) <= window.batches
        assert len(under_way) == 1 or sum(one.size for one in under_way) <= window.bytes
        assert all(len(one) <= max(window.join_events, 4) for one in under_way)
        assert all(one.size <= max(window.join_bytes, largest) for one in under_way)
        still_open = [answer for answer in peer.answers if not answer.done()]
        still_open[next(choices, 0) % len(still_open)].set_result(Receipt())
        await rest()
    assert [i for _, one in peer.pushes for i in one.ids] == [i for one in batches for i in one.ids]


class Ready:
    """Answer everything at once."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def push(self, push: Push, batch: Batch) -> Answer:
        self.ids += batch.ids
        return Receipt(buffer_size=len(self.ids))

    async def flush(self, everything: bool) -> None:
        raise AssertionError("nothing is held here")


async def test_a_receiver_that_waits_for_nothing_has_answered_when_the_push_returns() -> None:
    link = Link("link", Ready(), eager=True)
    answers = [link.push_nowait(batch(event_id)) for event_id in ("1", "2")]
    assert [answer.result().buffer_size for answer in answers] == [1, 2]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await link.drain()
    await link.close()


async def test_thousands_that_waited_leave_in_order_when_the_receiver_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer, ready = Peer(), Ready()
    link = link_to(peer, join_events=0)
    ids = [str(number) for number in range(3_000)]
    answers = [link.push_nowait(batch(event_id)) for event_id in ids]
    await rest()
    monkeypatch.setattr(peer, "push", ready.push)
    peer.answers[0].set_result(Receipt())
    await asyncio.gather(*answers)
    assert ready.ids == ids[1:]
    await link.close()
