"""Long work as a generator that yields now and then: others of the event loop have their turn there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import TypeVar, cast

T = TypeVar("T")
_FEW = 200


async def in_slices(steps: Generator[None, None, T]) -> T:
    """Do the work, with a turn for others at each yield; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)
        await asyncio.sleep(0)


def few(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield some items after the other: as many as work of some microseconds on each is done for in a turn."""
    for start in range(0, len(items), _FEW):
        yield items[start : start + _FEW]


async def few_in_turns(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield some items after the other, with a turn for others between them."""
    for start in range(0, len(items), _FEW):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + _FEW]


def at_once(steps: Generator[None, None, T]) -> T:
    """Do the work in one go; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)
