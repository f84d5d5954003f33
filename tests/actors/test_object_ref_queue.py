"""How an actor that may have died is asked whether it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import ray.exceptions

from polku.actors.object_ref_queue import ObjectRefQueue
from tests.support.virtual_time import in_virtual_time


class Method:
    """A method of an actor."""

    def __init__(self, call: Callable[[], Awaitable[int]]) -> None:
        self.remote = call


class Reborn:
    """An actor that is back after half a second; a call that was made when it died fails after two."""

    def __init__(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self.asked = 0
        self.life = Method(self._life)

    async def _life(self) -> int:
        self.asked += 1
        since = asyncio.get_running_loop().time() - self._began
        if since < 0.1:
            await asyncio.sleep(2.0)
        if since < 0.5:
            raise ray.exceptions.ActorUnavailableError("it is started again", b"0" * 16)
        return 5


@in_virtual_time
async def test_an_actor_that_is_back_is_heard_though_the_first_question_has_no_answer_yet() -> None:
    began = asyncio.get_running_loop().time()
    actor = Reborn()
    assert await ObjectRefQueue(actor, "next")._ask_life() == 5
    assert asyncio.get_running_loop().time() - began < 1.0
    assert actor.asked < 10
    await asyncio.sleep(5.0)
    assert actor.asked < 10  # nobody asks on


class Silent:
    """An actor that never answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.life = Method(self._life)

    async def _life(self) -> int:
        self.asked += 1
        return await asyncio.Event().wait()


@in_virtual_time
async def test_an_actor_that_is_blocked_has_few_questions_to_answer() -> None:
    actor = Silent()
    assert await ObjectRefQueue(actor, "next")._ask_life() == 0
    assert actor.asked == 6
