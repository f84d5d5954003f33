"""Processes of other nodes that end are known at once, by the other parts there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from polku.actors.observation import Observation
from polku.actors.process_watch import first_to_end
from polku.actors.remote_watch import RemoteWatch
from polku.actors.shell import Vitals


class Part:
    """An actor on another node: a real process, and the calls that it has open."""

    def __init__(self, process: asyncio.subprocess.Process, node: str = "there") -> None:
        self.process, self.node = process, node
        self.asked: list[tuple[int, ...]] = []
        self.first_to_end = self
        self._gone = asyncio.get_running_loop().create_task(process.wait())

    @property
    def seen(self) -> Observation:
        return Observation(Vitals(self.process.pid, 1, 0.0, 1, node=self.node), None, "")

    async def remote(self, pids: tuple[int, ...]) -> tuple[int, ...]:
        self.asked.append(pids)
        call = asyncio.ensure_future(first_to_end(pids, 3_600.0))
        try:
            await asyncio.wait([call, self._gone], return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ActorUnavailableError("the connection is lost", b"0" * 16)
            return call.result()
        finally:
            call.cancel()


class Node:
    """Parts by their names, what is watched of them, and what was said of their ends."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        self.said: list[tuple[Any, ...]] = []
        self.watch = RemoteWatch(lambda *told: self.said.append(told))

    async def add(self, name: str, node: str = "there") -> Part:
        part = self.parts[name] = Part(await asyncio.create_subprocess_exec("sleep", "3600"), node)
        return part

    def look(self) -> None:
        self.watch.watch(self.parts, {name: part.seen for name, part in self.parts.items()}, "here")

    async def wait_for(self, count: int) -> None:
        await until(lambda: len(self.said) >= count)

    async def wait_for_calls(self, count: int) -> None:
        await until(lambda: sum(len(part.asked) for part in self.parts.values()) >= count)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    found = Node()
    yield found
    await found.watch.close()
    for part in found.parts.values():
        if part.process.returncode is None:
            part.process.kill()
        await part.process.wait()


@pytest.mark.parametrize("victim", ["ingest", "stage-1", "emitter:partner"])
async def test_each_of_several_parts_is_looked_after(node: Node, victim: str) -> None:
    parts = [await node.add(name) for name in ("ingest", "stage-1", "emitter:partner")]
    node.look()
    await node.wait_for_calls(3)
    assert [len(part.asked[0]) for part in parts] == [2, 1, 0]
    process = node.parts[victim].process
    process.kill()
    await node.wait_for(2)
    # Of its own call, too: Ray says that as well, later.
    text = "does not answer: it has ended or is out of reach (ActorUnavailableError)"
    assert {told[:2] for told in node.said} == {(victim, process.pid)}
    assert sorted(told[2:] for told in node.said) == [(), (text,)]


async def test_two_that_end_one_after_the_other_are_both_told_of(node: Node) -> None:
    ends = [(await node.add(name)).process for name in ("ingest", "buffer", "emitter:a", "emitter:b")][2:]
    node.look()
    await node.wait_for_calls(4)
    for process in ends:
        process.kill()
        await process.wait()
    await until(lambda: {told[1] for told in node.said if len(told) == 2} == {process.pid for process in ends})


async def test_of_one_that_is_alone_on_its_node_its_own_call_tells(node: Node) -> None:
    await node.add("ingest")
    alone = await node.add("stage-1", "elsewhere")
    node.look()
    await node.wait_for_calls(2)
    alone.process.kill()
    await node.wait_for(1)
    (told,) = node.said
    assert told[:2] == ("stage-1", alone.process.pid)
    assert "ended or is out of reach" in told[2]


async def test_calls_stay_open_while_nothing_is_new(node: Node) -> None:
    ingest, buffer = await node.add("ingest"), await node.add("buffer")
    for _ in range(5):
        node.look()
        await asyncio.sleep(0)
    await node.wait_for_calls(2)
    emitter = await node.add("emitter:partner")
    node.look()
    await node.wait_for_calls(4)
    assert [len(part.asked) for part in (ingest, buffer, emitter)] == [2, 1, 1]
    del node.parts["buffer"]
    buffer.process.kill()  # it has left, so its end is no news
    node.look()
    await node.wait_for_calls(4)
    await buffer.process.wait()
    assert node.said == []


async def test_parts_of_the_own_node_are_not_asked(node: Node) -> None:
    part = await node.add("ingest", "here")
    node.look()
    await asyncio.sleep(0.01)
    assert part.asked == []
