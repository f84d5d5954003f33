"""What senders hear of a batch: again when it comes again, and at the level delivered once it has been delivered."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from polku import Batch, BufferStrategy, Code, PlanError
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt
from tests.buffer.parts import Bench, Destination, batch, finish, numbered, rest, until


async def test_a_batch_that_comes_again_is_answered_as_the_first_and_not_held_again() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(4, overflow="drop_newest"), {"a": a}, running=False)
    answers = []
    for _ in range(2):
        twice = batch(*numbered(0, 6))
        twice.identity = Identity("link", 1, 1)
        answers.append(await bench.push(twice))
    assert answers[0].refused == answers[1].refused != ()
    bench.buffer.start()
    await bench.buffer.drain()
    assert a.ids == numbered(0, 4)
    statistics = bench.buffer.statistics()
    assert (statistics.received, statistics.duplicates, statistics.overflowed) == (6, 1, 2)


async def test_a_batch_that_comes_again_hears_the_same_of_what_was_dropped_and_so_does_a_part() -> None:
    bench = Bench(BufferStrategy.ring(4, overflow="drop_newest"), {"a": Destination()}, running=False)
    identity = Identity("link", 1, 1)
    answers = []
    for own, ids in ((identity, (0, 6)), (identity, (0, 6)), (identity.piece(4, 2), (4, 6))):
        again = batch(*numbered(*ids))
        again.identity, again.wants_fates = own, True
        answers.append(await bench.push(again))
    dropped = ((4, "overflowed", 1), (5, "overflowed", 1))
    assert [answer.fates for answer in answers] == [dropped, dropped, ((0, "overflowed", 1), (1, "overflowed", 1))]
    assert [len(answer.refused) for answer in answers] == [2, 2, 2]


async def test_another_life_of_a_sender_is_no_duplicate() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a})
    for epoch, event_id in ((1, "old"), (2, "new")):
        alone = batch(event_id)
        alone.identity = Identity("link", epoch, 1)
        await bench.push(alone)
    await bench.buffer.drain()
    assert a.ids == ["old", "new"]


async def test_answers_are_remembered_while_they_are_open_however_many_there_are() -> None:
    a = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(1_000), {"a": a}, await_delivery=True)

    async def push(seq: int) -> asyncio.Future[Receipt]:
        alone = batch(f"{seq:04d}")
        alone.identity = Identity("link", 1, seq)
        return asyncio.ensure_future(finish(await bench.buffer.push(alone)))

    first = [await push(seq) for seq in range(1, 301)]
    again = [await push(seq) for seq in range(1, 301)]
    assert bench.buffer.statistics().duplicates == 300
    a.gate.set()
    await asyncio.gather(*first, *again)
    assert a.ids == numbered(1, 301)


async def test_what_a_destination_refuses_becomes_a_dead_letter_under_its_name() -> None:
    a, b = Destination(refuses={"2"}), Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a, "b": b})
    assert (await bench.push(batch("1", "2", "3"))).refused == ()
    await bench.buffer.drain()
    assert [(letter.event.id, letter.emitter) for letter in bench.dead_letters.latest()] == [("2", "a")]
    outlets = bench.buffer.statistics().outlets
    assert (outlets["a"].confirmed, outlets["a"].dead) == (2, 1)
    assert (outlets["b"].confirmed, outlets["b"].dead) == (3, 0)


async def test_await_delivery_answers_when_every_destination_has_answered() -> None:
    a, b = Destination(refuses={"2"}), Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(10), {"a": a, "b": b}, await_delivery=True)
    answer = asyncio.ensure_future(finish(await bench.buffer.push(batch("1", "2"))))
    other = asyncio.ensure_future(finish(await bench.buffer.push(batch("3", to=["a"]))))
    await until(lambda: a.ids == ["1", "2", "3"])
    assert (await other).refused == ()
    assert not answer.done()
    b.gate.set()
    assert [(r.event_id, r.code) for r in (await answer).refused] == [("2", Code.UNDELIVERED)]


async def test_await_delivery_names_what_was_dropped_by_rule() -> None:
    a = Destination()
    strategy = BufferStrategy.ring(4, overflow="drop_oldest")
    bench = Bench(strategy, {"a": a}, await_delivery=True, running=False)
    first = asyncio.ensure_future(finish(await bench.buffer.push(batch("1", "2", "3"))))
    second = asyncio.ensure_future(finish(await bench.buffer.push(batch("4", "5", "6"))))
    bench.buffer.start()
    assert [(r.event_id, r.code) for r in (await first).refused] == [("1", Code.UNDELIVERED), ("2", Code.UNDELIVERED)]
    assert (await second).refused == ()
    assert a.ids == ["3", "4", "5", "6"]


async def test_at_the_level_delivered_a_push_waits_for_room_and_its_answer_for_the_delivery() -> None:
    a = Destination(is_open=False, refuses=["0007"])
    bench = Bench(BufferStrategy.ring(4), {"a": a}, await_delivery=True)
    pushed = asyncio.ensure_future(bench.buffer.push(batch(*numbered(0, 10))))
    await rest()
    assert not pushed.done()
    a.gate.set()
    receipt = await finish(await pushed)
    assert [(refusal.event_id, refusal.position) for refusal in receipt.refused] == [("0007", 7)]


class Unreachable(Destination):
    """Raise instead of answering, until it is back."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def push(self, batch: Batch) -> Receipt:
        if self.error is not None:
            self.calls += 1
            raise self.error
        return await super().push(batch)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("the database is down"),
        OSError(24, "Too many open files"),
        MemoryError(),
        pickle.PicklingError("cannot be pickled"),
        PlanError("build() makes no emitter"),
    ],
    ids=repr,
)
async def test_what_a_push_ends_with_is_no_verdict_its_events_are_held_in_order_and_the_fault_is_named(
    error: Exception,
) -> None:
    a, b = Unreachable(error), Destination()
    bench = Bench(BufferStrategy.ring(100), {"a": a, "b": b}, retry_delay=lambda attempt: 0)
    for event_id in numbered(0, 30):
        await bench.push(batch(event_id))
    await until(lambda: a.calls > 20)
    state = bench.buffer.statistics().outlets
    assert (state["a"].lag, state["a"].dead, state["a"].confirmed) == (30, 0, 0)
    assert state["a"].fault == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert state["b"].fault == ""
    await asyncio.wait_for(bench.buffer.outlet("b").drain(), 30)
    assert b.ids == numbered(0, 30)
    a.error = None
    await bench.buffer.drain()
    assert a.ids == numbered(0, 30)
    assert bench.buffer.statistics().outlets["a"].fault == ""
    assert bench.dead_letters.latest() == []


async def test_a_sender_that_waits_for_the_delivery_waits_while_the_emitter_is_out_of_reach() -> None:
    a = Unreachable(ConnectionError("down"))
    bench = Bench(BufferStrategy.ring(1), {"a": a}, await_delivery=True, retry_delay=lambda attempt: 0)
    sent = asyncio.ensure_future(bench.push(batch("1")))
    await until(lambda: a.calls > 20)
    assert not sent.done()
    a.error = None
    assert (await sent).refused == ()
    assert a.ids == ["1"]
