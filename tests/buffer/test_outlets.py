"""The outlets of a buffer come and leave by name."""

from __future__ import annotations

import asyncio

from polku import BufferStrategy
from polku.buffer.outlets import OutletChange, OutletRules
from polku.link.link import Link, LocalPeer
from tests.buffer.parts import Bench, Destination, batch, until


async def test_one_that_leaves_is_forgotten_and_not_the_one_that_has_its_name_by_then() -> None:
    old, new = Destination(is_open=False), Destination()
    strategy, rules = BufferStrategy.ring(10), OutletRules({}, frozenset(), frozenset())
    bench = Bench(strategy, {"a": old})
    await bench.push(batch("1"))
    await bench.buffer.rearrange(strategy, rules, OutletChange({}, {}, ["a"]), seconds=30)
    link = Link("a", LocalPeer(new))
    await bench.buffer.rearrange(strategy, rules, OutletChange({"a": link}, {}, []), seconds=30)
    forgetting = asyncio.ensure_future(bench.buffer.forget("a"))
    await until(lambda: old.calls == 1)
    old.gate.set()
    await asyncio.wait_for(forgetting, 30)
    await bench.push(batch("2"))
    async with asyncio.timeout(30):
        await bench.buffer.drain()
    assert (old.ids, new.ids) == (["1"], ["2"])
    await bench.buffer.close()
