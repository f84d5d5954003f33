"""A full buffer: the sender waits, or what is oldest or newest is dropped and counted, by the rule of each outlet."""

from __future__ import annotations

import asyncio

import pytest

from polku import BufferStrategy, Code
from polku.buffer.strategy import Overflow
from polku.errors import DrainingError
from tests.buffer.parts import Bench, Destination, batch, held, numbered, rest, until

BOTH = pytest.mark.parametrize("strategy", [BufferStrategy.ring(10), BufferStrategy.tiered(4, 6)], ids=str)


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
    assert held(bench.buffer) == (0, 0)


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
