"""A store gives back what it was given, whichever tier it lies in."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polku import Batch, BufferStrategy
from polku.batch.batch import Identity
from polku.buffer.store import open_store
from tests.buffer.parts import batch, numbered

BOTH = pytest.mark.parametrize("strategy", [BufferStrategy.ring(10), BufferStrategy.tiered(4, 6)], ids=str)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), max_size=12),
    drops=st.lists(st.integers(0, 11), max_size=12),
    primary=st.integers(0, 10),
)
def test_batches_come_back_byte_for_byte_at_rising_positions(counts: list[int], drops: list[int], primary: int) -> None:
    asyncio.run(_check(counts, drops, primary))


async def _check(counts: list[int], drops: list[int], primary: int) -> None:
    store = open_store(BufferStrategy.tiered(primary, 1) if primary else BufferStrategy.ring(1))
    held: dict[int, Batch] = {}
    for number, count in enumerate(counts):
        one = batch(*numbered(0, count), to=["a"], payload=bytes([number]) * 50)
        one.identity = Identity("link", 1, number)
        position = await store.put(one)
        assert position > max(held, default=0)
        held[position] = one
        if number in drops:
            oldest = min(held)
            store.drop(oldest)
            held.pop(oldest)
    for position, one in held.items():
        found = await store.get(position)
        assert (found.header, found.payload) == (one.header, one.payload)
    assert store.size[0] == sum(map(len, held.values()))
    assert store.size[1] <= sum(one.size for one in held.values()) + 32 * len(held)  # what little zstd cannot shrink
    for position in held:
        store.drop(position)
    assert store.size == (0, 0)


async def test_only_what_does_not_fit_into_the_first_tier_is_compressed() -> None:
    store = open_store(BufferStrategy.tiered(2, 10))
    one, other = (batch(*numbered(0, 2), payload=b"." * 1_000) for _ in range(2))
    await store.put(one)
    assert store.size == (2, one.size)
    position = await store.put(other)
    assert store.size[0] == 4
    assert store.size[1] < one.size + 200
    assert (await store.get(position)).payload == other.payload


@BOTH
async def test_a_batch_that_was_dropped_is_gone(strategy: BufferStrategy) -> None:
    store = open_store(strategy)
    positions = [await store.put(batch(*numbered(0, 4))) for _ in range(2)]
    for position in positions:
        store.drop(position)
        with pytest.raises(KeyError):
            await store.get(position)
