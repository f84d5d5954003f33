"""The buffer holds batches until every destination has them, and counts whatever it releases."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Batch, BufferStrategy, Code, Event
from polku.batch.receipt import Receipt
from polku.buffer.strategy import Overflow
from tests.buffer.parts import Bench, Destination, batch, held, numbered, rest, until
from tests.support.examples import examples


async def test_an_event_goes_to_every_emitter_and_is_held_once() -> None:
    bench = Bench(BufferStrategy.ring(10), {"a": Destination(is_open=False), "b": Destination(is_open=False)})
    receipt = await bench.push(batch("1", "2"))
    assert receipt == Receipt((), receipt.counts, 2, 10)
    assert receipt.counts.forwarded == 2
    assert (*held(bench.buffer), bench.buffer.statistics().capacity) == (2, batch("1", "2").size, 10)
    for destination in bench.destinations.values():
        destination.gate.set()
    await bench.buffer.drain()
    assert [destination.ids for destination in bench.destinations.values()] == [["1", "2"], ["1", "2"]]
    assert held(bench.buffer) == (0, 0)


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


async def test_what_is_held_when_the_buffer_closes_stays_held() -> None:
    bench = Bench(BufferStrategy.ring(10), {"a": Destination(is_open=False)})
    await bench.push(batch("1", "2"))
    await rest()
    await bench.buffer.close()
    assert bench.buffer.statistics().events == 2
    assert bench.buffer.statistics().outlets["a"].confirmed == 0


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
    assert (statistics.events, statistics.bytes) == (0, 0)
