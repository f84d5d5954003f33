"""Long work as a generator that yields now and then: others of the event loop have their turn there."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar, cast

T = TypeVar("T")


async def in_slices(steps: Generator[None, None, T]) -> T:
    """Do the work, with a turn for others at each yield; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)
        await asyncio.sleep(0)


def at_once(steps: Generator[None, None, T]) -> T:
    """Do the work in one go; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)
