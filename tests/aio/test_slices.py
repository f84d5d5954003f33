"""Work in slices: the same result, and turns for others in between."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from polku.aio.slices import at_once, in_slices


def steps(count: int) -> Generator[None, None, int]:
    for _ in range(count):
        yield
    return count


def test_work_in_one_go_gives_its_result() -> None:
    assert at_once(steps(3)) == 3


async def test_others_have_a_turn_at_each_yield() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    assert await in_slices(steps(5)) == 5
    assert 4 <= turns <= 6
    task.cancel()


async def test_what_the_work_raises_is_raised() -> None:
    def failing() -> Generator[None, None, int]:
        yield
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await in_slices(failing())
    with pytest.raises(ValueError, match="odd"):
        at_once(failing())
