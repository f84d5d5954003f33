"""A push to an actor goes by its socket while that is there, and by Ray's calls otherwise; it is applied once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest
import ray

from polku import Batch, Event
from polku.actors.object_ref_queue import ObjectRefQueue
from polku.actors.options import ACTOR
from polku.actors.shell import Shell
from polku.actors.surroundings import Surroundings
from polku.actors.wire import pack_answer, unpack_push
from polku.batch.receipt import Receipt
from polku.link.link import Link
from polku.link.receiver import LinkReceiver


class Recorder(Shell):
    """Take a while for each batch, and count by which way it came."""

    async def open(self) -> None:
        self._ids: list[str] = []
        self._ways = {"socket": 0, "call": 0}
        self._by_socket = False
        self._inlet = LinkReceiver(self)

    async def push(self, batch: Any, payload: bytes = b"") -> Any:
        if isinstance(batch, Batch):
            await asyncio.sleep(0.05)
            self._ids += batch.ids
            return Receipt()
        await self.ensure_started()
        self._ways["socket" if self._by_socket else "call"] += 1
        self._by_socket = False
        return pack_answer(await self._inlet.push(*unpack_push(batch, payload)))

    async def _serve(self, method: str, arguments: tuple[Any, ...], payload: bytes) -> bytes:
        self._by_socket = True
        return await super()._serve(method, arguments, payload)

    async def found(self) -> tuple[list[str], dict[str, int]]:
        return self._ids, self._ways


def _batch(number: int) -> Batch:
    return Batch.from_events([Event(id=f"{number:03d}")])


@pytest.mark.usefixtures("ray_session")
async def test_a_connection_that_is_lost_while_the_actor_lives_is_done_without() -> None:
    actor: Any = ray.remote(**ACTOR)(Recorder).remote(b"", Surroundings())
    peer = ObjectRefQueue(actor, "recorder")
    link = Link("test", peer, retry_delay=lambda _: 0.01)
    assert await link.push(_batch(0)) == Receipt()
    assert (await actor.found.remote())[1] == {"socket": 1, "call": 0}
    answers = [link.push_nowait(_batch(number)) for number in range(1, 10)]
    async with asyncio.timeout(30):
        while (await actor.found.remote())[1]["socket"] < 2:
            pass
    assert peer._shortcut is not None
    peer._shortcut.close()
    assert await asyncio.wait_for(asyncio.gather(*answers), 30) == [Receipt()] * 9
    ids, ways = await actor.found.remote()
    assert ids == [f"{number:03d}" for number in range(10)]
    assert ways["call"] > 0
    await link.close()
    ray.kill(actor)


@pytest.mark.usefixtures("ray_session")
async def test_an_actor_that_ray_has_started_again_is_pushed_to_where_it_is_now() -> None:
    actor: Any = ray.remote(**ACTOR)(Recorder).remote(b"", Surroundings())
    peer = ObjectRefQueue(actor, "recorder")
    link = Link("test", peer, retry_delay=lambda _: 0.01)
    assert await link.push(_batch(0)) == Receipt()
    pid = (await actor.vitals.remote()).pid
    os.kill(pid, signal.SIGSTOP)  # its socket stays open
    try:
        answer = link.push_nowait(_batch(1))
        await asyncio.sleep(0.1)
        ray.kill(actor, no_restart=False)
        assert await asyncio.wait_for(answer, 60) == Receipt()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert (await actor.found.remote())[0] == ["001"]
    await link.close()
    if peer._shortcut is not None:
        peer._shortcut.close()
    await asyncio.sleep(0.1)
    ray.kill(actor)
