"""The socket between two actors of one machine: answers, errors, lost connections, and a link over one that is cut."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polku import Batch, Event
from polku.actors import socket_channel
from polku.actors.socket_channel import LostError, SocketChannel, listen, reach
from polku.actors.wire import pack_answer, pack_push, unpack_answer, unpack_push
from polku.batch.receipt import Answer, Receipt
from polku.errors import UnavailableError
from polku.link.link import Link, Push, Window
from polku.link.receiver import LinkReceiver


class Echo:
    """Answer with what came, after the time that it asks for; raise what it is told to."""

    async def serve(self, method: str, arguments: tuple[Any, ...], payload: bytes) -> bytes:
        if method == "raise":
            raise arguments[0]
        if method == "unpicklable":
            raise _LambdaError(lambda: None)
        await asyncio.sleep(arguments[0])
        return payload


class _LambdaError(Exception):
    pass


@pytest.fixture
async def way() -> AsyncIterator[SocketChannel]:
    way = await _connect(Echo().serve)
    yield way
    way.close()
    await asyncio.sleep(0.01)


async def _connect(serve: socket_channel.Serve) -> SocketChannel:
    way = await reach(await listen(serve))
    assert way is not None
    return way


async def test_many_requests_of_any_size_are_answered_each_when_it_is_ready(way: SocketChannel) -> None:
    payloads = [os.urandom(size) for size in (0, 1, 100, 70_000, 3_000_000, 5, 1_000_000)] * 3
    answers = [way.ask("echo", (random.random() / 20,), payload) for payload in payloads]
    assert await asyncio.gather(*answers) == payloads


async def test_what_the_other_side_raises_is_raised_here(way: SocketChannel) -> None:
    with pytest.raises(UnavailableError, match="gone") as caught:
        await way.ask("raise", (UnavailableError("gone", died=True),))
    assert caught.value.died
    with pytest.raises(UnavailableError, match="_LambdaError"):
        await way.ask("unpicklable", ())
    assert await way.ask("echo", (0,), b"still here") == b"still here"


async def test_a_lost_connection_fails_what_is_under_way_and_what_comes(way: SocketChannel) -> None:
    answer = way.ask("echo", (10,), b"never")
    way.close()
    with pytest.raises(LostError):
        await answer
    assert not way.is_open
    with pytest.raises(LostError):
        await way.ask("echo", (0,), b"late")


async def test_a_socket_is_ours_alone_and_gone_once_it_is_connected() -> None:
    path = Path(await listen(Echo().serve))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    way = await reach(str(path))
    assert way is not None
    assert await way.ask("echo", (0,), b"1") == b"1"
    assert not path.parent.exists()
    assert await reach(str(path)) is None
    way.close()
    await asyncio.sleep(0.01)


async def test_a_socket_that_nobody_connects_to_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_channel, "_UNUSED_SECONDS", 0.01)
    path = Path(await listen(Echo().serve))
    async with asyncio.timeout(30):
        while path.parent.exists():  # noqa: ASYNC110 - nobody is told that it has gone
            await asyncio.sleep(0.01)


async def test_where_no_socket_can_be_had_there_is_no_shortcut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 110)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    path = await listen(Echo().serve)
    assert path == ""
    assert not list(long.iterdir())
    assert await reach(path) is None


async def test_sockets_may_be_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_HOPS", "ray")
    monkeypatch.setattr(socket_channel, "_UNUSED_SECONDS", 0.01)
    assert await reach(await listen(Echo().serve)) is None
    await asyncio.sleep(0.1)


class Cut:
    """A peer over a shortcut that is cut now and then, before or after the other side has done its work."""

    def __init__(self, receiver: Any, dice: random.Random) -> None:
        self._receiver = LinkReceiver(receiver, eager=True)
        self._dice = dice
        self._way: SocketChannel | None = None
        self._turn = asyncio.Lock()
        self.cuts = 0

    async def push(self, push: Push, batch: Batch) -> Answer:
        async with self._turn:
            if self._way is None or not self._way.is_open:
                self._way = await _connect(self._serve)
        head, payload = pack_push(push, batch)
        answer = self._way.ask("push", (head,), payload)
        if self._dice.random() < 0.2:
            asyncio.get_running_loop().call_later(self._dice.random() / 200, self._way.close)
            self.cuts += 1
        try:
            receipt = unpack_answer(await answer)
        except LostError as error:
            raise UnavailableError(str(error)) from None
        assert isinstance(receipt, Receipt)  # nothing is held here
        return receipt

    async def close(self) -> None:
        if self._way is not None:
            self._way.close()
        await asyncio.sleep(0.05)

    async def flush(self, everything: bool) -> None:
        raise AssertionError("nothing is held here")

    async def _serve(self, method: str, arguments: tuple[Any, ...], payload: bytes) -> bytes:
        return pack_answer(await self._receiver.push(*unpack_push(arguments[0], payload)))


class Slow:
    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._turn = asyncio.Lock()
        self.ids: list[str] = []

    async def push(self, batch: Batch) -> Answer:
        async with self._turn:
            await asyncio.sleep(self._dice.random() / 400)
            self.ids += batch.ids
        return Receipt()


@pytest.mark.parametrize("seed", range(5))
async def test_a_link_over_connections_that_are_cut_loses_doubles_and_reorders_nothing(seed: int) -> None:
    dice = random.Random(seed)
    receiver = Slow(dice)
    peer = Cut(receiver, dice)
    link = Link("cut", peer, window=Window(batches=3, join_events=5), retry_delay=lambda _: 0.001)
    ids = [f"{number:04d}" for number in range(300)]
    pushes = []
    for event_id in ids:
        pushes.append(link.push_nowait(Batch.from_events([Event(id=event_id)])))
        if dice.random() < 0.5:
            await asyncio.sleep(0.001)
    assert await asyncio.wait_for(asyncio.gather(*pushes), 30) == [Receipt()] * len(ids)
    assert receiver.ids == ids
    assert peer.cuts
    await link.close()
    await peer.close()
