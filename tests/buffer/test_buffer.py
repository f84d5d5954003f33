"""The buffer holds batches until every destination has them, and counts whatever it releases."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Batch, BufferStrategy, Code, Event, PlanError
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt
from polku.buffer.strategy import Overflow
from polku.errors import DrainingError
from tests.buffer.parts import Bench, Destination, batch, finish, numbered, rest, until
from tests.support.examples import examples

BOTH = pytest.mark.parametrize("strategy", [BufferStrategy.ring(10), BufferStrategy.tiered(4, 6)], ids=str)


async def test_an_event_goes_to_every_emitter_and_is_held_once() -> None:
    bench = Bench(BufferStrategy.ring(10), {"a": Destination(is_open=False), "b": Destination(is_open=False)})
    receipt = await bench.push(batch("1", "2"))
    assert receipt == Receipt((), receipt.counts, 2, 10)
    assert receipt.counts.forwarded == 2
    assert bench.buffer.statistics()[:3] == (2, batch("1", "2").size, 10)
    for destination in bench.destinations.values():
        destination.gate.set()
    await bench.buffer.drain()
    assert [destination.ids for destination in bench.destinations.values()] == [["1", "2"], ["1", "2"]]
    assert bench.buffer.statistics()[:2] == (0, 0)


@BOTH
async def test_block_makes_the_sender_wait_and_loses_nothing(strategy: BufferStrategy) -> None:
    a = Destination(is_open=False)
    bench = Bench(strategy, {"a": a})
    pushes = [asyncio.ensure_future(bench.push(batch(i))) for i in numbered(0, 25)]
    await rest()
    assert [push.done() for push in pushes] == [True] * 10 + [False] * 15
    assert bench.buffer.statistics().outlets["a"].lag == 10
    a.gate.set()
    await asyncio.gather(*pushes)
    await bench.buffer.drain()
    assert a.ids == numbered(0, 25)
    assert bench.buffer.statistics().overflowed == 0


@BOTH
async def test_a_batch_larger_than_the_buffer_passes_in_parts(strategy: BufferStrategy) -> None:
    a = Destination()
    bench = Bench(strategy, {"a": a})
    await bench.push(batch(*numbered(0, 137)))
    await bench.buffer.drain()
    assert a.ids == numbered(0, 137)


async def test_bytes_bound_the_buffer_as_events_do_and_one_large_event_passes() -> None:
    a = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(100, max_bytes=1_000), {"a": a})
    await bench.push(batch("1", payload=b"." * 5_000))
    push = asyncio.ensure_future(bench.push(batch("2")))
    await rest()
    assert not push.done()
    a.gate.set()
    await push
    await bench.buffer.drain()
    assert a.ids == ["1", "2"]


async def test_drop_oldest_keeps_the_newest_and_counts_the_others() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10, overflow="drop_oldest"), {"a": a}, running=False)
    for start in range(0, 30, 3):
        receipt = await bench.push(batch(*numbered(start, start + 3)))
        assert receipt.refused == ()
    assert receipt.counts.overflowed == bench.buffer.statistics().overflowed == 20
    assert bench.buffer.statistics().outlets["a"].dropped == 20
    bench.buffer.start()
    await bench.buffer.drain()
    assert a.ids == numbered(20, 30)
    assert bench.buffer.statistics()[:2] == (0, 0)


async def test_drop_oldest_leaves_what_is_under_way_and_keeps_to_its_share() -> None:
    a = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(8, overflow="drop_oldest"), {"a": a})
    for start in range(0, 48, 8):
        await bench.push(batch(*numbered(start, start + 8)))
        await rest()
        assert bench.buffer.statistics().outlets["a"].lag <= 8
    under_way = bench.buffer.statistics().outlets["a"].in_flight
    a.gate.set()
    await bench.buffer.drain()
    assert a.ids == [*numbered(0, under_way), *numbered(48 - (8 - under_way), 48)]


async def test_drop_newest_drops_what_does_not_fit_and_tells_its_sender() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10, overflow="drop_newest"), {"a": a}, running=False)
    first = await bench.push(batch(*numbered(0, 7)))
    second = await bench.push(batch(*numbered(7, 14)))
    assert first.refused == ()
    assert [(r.event_id, r.code) for r in second.refused] == [(i, Code.BUFFER_FULL) for i in numbered(10, 14)]
    assert "'a'" in second.refused[0].message
    assert second.counts.overflowed == bench.buffer.statistics().outlets["a"].dropped == 4
    bench.buffer.start()
    await bench.buffer.drain()
    assert a.ids == numbered(0, 10)


async def test_a_slow_outlet_holds_no_other_until_its_share_is_full() -> None:
    slow, fast = Destination(is_open=False), Destination()
    bench = Bench(BufferStrategy.ring(10), {"slow": slow, "fast": fast})
    for event_id in numbered(0, 10):
        await bench.push(batch(event_id))
    await until(lambda: fast.ids == numbered(0, 10))
    push = asyncio.ensure_future(bench.push(batch("0010")))
    await rest()
    assert not push.done()
    slow.gate.set()
    await push
    await bench.buffer.drain()
    assert slow.ids == fast.ids == numbered(0, 11)


async def test_a_few_events_wait_a_moment_after_a_delivery_and_leave_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polku.buffer.spacing._PAUSE_SECONDS", 0.5)
    a = Destination()
    bench = Bench(BufferStrategy.ring(1_000), {"a": a})
    await bench.push(batch("0"))
    await until(lambda: a.ids == ["0"])
    for event_id in ("1", "2", "3"):
        await bench.push(batch(event_id))
        await asyncio.sleep(0)
    assert a.calls == 1
    await bench.buffer.drain()
    assert [one.ids for one in a.batches] == [["0"], ["1", "2", "3"]]


async def test_a_few_events_do_not_wait_long_for_a_slow_delivery_nor_many_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(1_000), {"a": a})
    await bench.push(batch("0"))
    await until(lambda: a.calls == 1)
    await bench.push(batch("1"))
    await until(lambda: a.calls == 2)
    a.gate.set()
    await bench.buffer.drain()
    monkeypatch.setattr("polku.buffer.spacing._PAUSE_SECONDS", 60)
    await bench.push(batch("2"))
    await rest()
    assert a.calls == 2
    await bench.push(batch(*numbered(0, 200)))
    await until(lambda: a.calls == 3)
    await bench.buffer.drain()
    assert a.batches[-1].ids == ["2", *numbered(0, 200)]


async def test_who_waits_for_the_delivery_waits_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polku.buffer.spacing._PAUSE_SECONDS", 60)
    a = Destination()
    bench = Bench(BufferStrategy.ring(1_000), {"a": a}, await_delivery=True)
    for event_id in numbered(0, 5):
        await asyncio.wait_for(bench.push(batch(event_id)), 30)
    a.gate.clear()
    pushes = [asyncio.ensure_future(bench.push(batch("0005")))]
    await until(lambda: a.calls == 6)
    pushes += [asyncio.ensure_future(bench.push(batch(event_id))) for event_id in numbered(6, 10)]
    await rest()
    assert a.calls == 6
    a.gate.set()
    await asyncio.wait_for(asyncio.gather(*pushes), 30)
    assert [one.ids for one in a.batches[5:]] == [["0005"], numbered(6, 10)]


async def test_one_outlet_may_drop_while_another_blocks() -> None:
    a, b = Destination(is_open=False), Destination()
    rules = {"a": Overflow.DROP_NEWEST}
    bench = Bench(BufferStrategy.ring(4), {"a": a, "b": b}, overflow=rules)
    for event_id in numbered(0, 12):
        await bench.push(batch(event_id))
        await rest()
    a.gate.set()
    await bench.buffer.drain()
    assert a.ids == numbered(0, 4)
    assert b.ids == numbered(0, 12)
    assert bench.buffer.statistics().overflowed == 8


async def test_a_batch_with_one_route_goes_there_alone() -> None:
    a, b = Destination(), Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a, "b": b})
    await bench.push(batch("1", to=["b"]))
    await bench.buffer.drain()
    assert (a.ids, b.ids) == ([], ["1"])


async def test_no_route_leaves_out_an_emitter_that_gets_every_event() -> None:
    a, b, audit = Destination(), Destination(), Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a, "audit": audit, "b": b}, await_delivery=True, always=["audit"])
    routes = {"1": ["a"], "2": ["audit"], "3": [], "4": ["nobody"], "5": ["b", "audit"]}
    receipt = await bench.push(Batch.from_events([Event(id=i, route_to=to) for i, to in routes.items()]))
    await bench.buffer.drain()
    assert (a.ids, b.ids, audit.ids) == (["1", "3"], ["3", "5"], ["1", "2", "3", "4", "5"])
    assert [(refusal.event_id, refusal.code) for refusal in receipt.refused] == [("4", Code.UNROUTABLE)]


async def test_an_emitter_that_is_named_twice_gets_the_event_once() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a})
    await bench.push(batch("1", to=["a", "a"]))
    await bench.buffer.drain()
    assert a.ids == ["1"]


async def test_an_event_for_nobody_becomes_a_dead_letter_and_is_refused() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a})
    mixed = [Event(id="1"), Event(id="2", route_to=["nobody"]), Event(id="3", route_to=["a"])]
    receipt = await bench.push(Batch.from_events(mixed))
    await bench.buffer.drain()
    assert [(r.event_id, r.code) for r in receipt.refused] == [("2", Code.UNROUTABLE)]
    assert "['a']" in receipt.refused[0].message
    assert [(letter.event.id, letter.code) for letter in bench.dead_letters.latest()] == [("2", Code.UNROUTABLE)]
    assert bench.buffer.statistics().unroutable == 1
    assert a.ids == ["1", "3"]


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
    for own, ids in ((identity, (0, 6)), (identity, (0, 6)), (identity.part(4, 2), (4, 6))):
        again = batch(*numbered(*ids))
        again.identity, again.counted = own, True
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


async def test_what_is_held_when_the_buffer_closes_stays_held() -> None:
    bench = Bench(BufferStrategy.ring(10), {"a": Destination(is_open=False)})
    await bench.push(batch("1", "2"))
    await rest()
    await bench.buffer.close()
    assert bench.buffer.statistics().events == 2
    assert bench.buffer.statistics().outlets["a"].confirmed == 0


async def test_a_full_outlet_holds_up_what_goes_to_it_and_nothing_else() -> None:
    dead, well = Destination(is_open=False), Destination()
    bench = Bench(BufferStrategy.ring(4), {"dead": dead, "well": well})
    waiting = asyncio.ensure_future(bench.push(batch(*numbered(0, 10), to=["dead"])))
    both = asyncio.ensure_future(bench.push(batch("b", to=["dead", "well"])))
    await rest()
    assert not (await asyncio.wait_for(bench.push(batch("w", to=["well"])), 30)).refused
    await until(lambda: well.ids == ["b", "w"])
    assert (waiting.done(), both.done()) == (False, False)
    dead.gate.set()
    assert [(await push).refused for push in (waiting, both)] == [(), ()]
    await bench.buffer.drain()
    assert dead.ids == [*numbered(0, 10), "b"]
    assert (bench.buffer.statistics().events, bench.buffer.statistics().received) == (0, 12)


async def test_one_message_for_a_full_outlet_and_for_others_comes_to_the_others() -> None:
    dead, well = Destination(is_open=False), Destination()
    bench = Bench(BufferStrategy.ring(4), {"dead": dead, "well": well})
    pushed = asyncio.ensure_future(bench.push(batch(*numbered(0, 20))))
    await until(lambda: len(well.ids) == 20)
    assert well.ids == numbered(0, 20)
    assert not pushed.done()
    dead.gate.set()
    assert (await pushed).refused == ()
    await bench.buffer.drain()
    assert dead.ids == numbered(0, 20)


async def test_who_waits_for_room_in_a_buffer_that_closes_is_told_so() -> None:
    bench = Bench(BufferStrategy.ring(4), {"a": Destination(is_open=False)})
    pushed = asyncio.ensure_future(bench.push(batch(*numbered(0, 10))))
    await rest()
    await bench.buffer.close()
    with pytest.raises(DrainingError, match="before emitter 'a' had room"):
        await pushed


async def test_at_the_level_delivered_a_push_waits_for_room_and_its_answer_for_the_delivery() -> None:
    a = Destination(is_open=False, refuses=["0007"])
    bench = Bench(BufferStrategy.ring(4), {"a": a}, await_delivery=True)
    pushed = asyncio.ensure_future(bench.buffer.push(batch(*numbered(0, 10))))
    await rest()
    assert not pushed.done()
    a.gate.set()
    receipt = await finish(await pushed)
    assert [(refusal.event_id, refusal.position) for refusal in receipt.refused] == [("0007", 7)]


ROUTES = st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("nobody",)])


@examples(100)
@given(
    batches=st.lists(st.lists(st.tuples(ROUTES, st.integers(1, 11)), max_size=4), max_size=12),
    rule=st.sampled_from(list(Overflow)),
    tiered=st.booleans(),
    await_delivery=st.booleans(),
    opens_after=st.integers(0, 12),
)
def test_each_outlet_gets_its_events_in_order_once_and_all_others_are_counted(
    batches: list[list[tuple[tuple[str, ...], int]]],
    rule: Overflow,
    tiered: bool,
    await_delivery: bool,
    opens_after: int,
) -> None:
    asyncio.run(_check_routes(batches, rule, tiered, await_delivery, opens_after))


async def _check_routes(
    batches: list[list[tuple[tuple[str, ...], int]]],
    rule: Overflow,
    tiered: bool,
    await_delivery: bool,
    opens_after: int,
) -> None:
    a, b = Destination(is_open=False), Destination()
    strategy = BufferStrategy.tiered(3, 5, overflow=rule) if tiered else BufferStrategy.ring(8, overflow=rule)
    bench = Bench(strategy, {"a": a, "b": b}, await_delivery=await_delivery)
    numbers = iter(range(10_000))
    sent = [[(f"{next(numbers):04d}", to) for to, count in runs for _ in range(count)] for runs in batches]
    pushes = []
    for position, events in enumerate(sent):
        if position == opens_after:
            a.gate.set()
        one = Batch.from_events([Event(id=i, route_to=routes) for i, routes in events])
        pushes.append(asyncio.ensure_future(bench.push(one)))
        await rest()
        outlets = bench.buffer.statistics().outlets
        assert max(outlet.lag for outlet in outlets.values()) <= 8
    a.gate.set()
    receipts = await asyncio.wait_for(asyncio.gather(*pushes), 30)
    await bench.buffer.drain()
    statistics = bench.buffer.statistics()
    for name, destination in (("a", a), ("b", b)):
        wanted = [i for events in sent for i, routes in events if not routes or name in routes]
        assert destination.ids == [i for i in wanted if i in set(destination.ids)]
        assert statistics.outlets[name].confirmed == len(destination.ids)
        assert statistics.outlets[name].dropped == len(wanted) - len(destination.ids)
        if rule is Overflow.BLOCK:
            assert destination.ids == wanted
    lost = {i for events in sent for i, routes in events if not routes or "a" in routes} - set(a.ids)
    lost |= {i for events in sent for i, routes in events if not routes or "b" in routes} - set(b.ids)
    unroutable = {i for events in sent for i, routes in events if routes == ("nobody",)}
    told = {refusal.event_id for receipt in receipts for refusal in receipt.refused}
    assert told == unroutable | (lost if await_delivery or rule is Overflow.DROP_NEWEST else set())
    assert statistics.unroutable == len(unroutable) == len(bench.dead_letters.latest())
    assert statistics[:2] == (0, 0)


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
