"""The live page's stream of events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest

from polku import Batch, Hub, Pipeline, UnavailableError, new_event
from polku.monitoring import live
from polku.monitoring.history import History
from polku.monitoring.live import Live
from polku.monitoring.page import page
from polku.monitoring.statistics import PartHealth, PipelineStatistics
from tests.monitoring.test_admin import get


def partner(batch: Batch) -> None:
    """Take everything."""


@contextmanager
def stream(address: str | None, path: str = "/events", headers: str = "") -> Iterator[Any]:
    """Yield what reads from a stream, line by line, as bytes."""
    assert address is not None
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n".encode())
        with connection.makefile("rb") as lines:
            yield lines


def next_event(lines: Any) -> tuple[str, Any]:
    """Return the kind and the data of the next event; an empty kind where the stream has ended."""
    kind, data = "", None
    for line in lines:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = json.loads(value)
        elif kind and not name:
            return kind, data
    return "", None


def body(lines: Any) -> None:
    """Skip the head of an answer."""
    while lines.readline().strip():
        pass


def start(**options: Any) -> Pipeline:
    return Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0", **options)


def test_the_page_is_there_and_runs_nothing_but_its_own_script() -> None:
    with start() as pipeline:
        status, text, headers = get(pipeline.admin_address, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.search(r"""\son\w+=|\sstyle=|(src|href)=["']?(http|/)""", text.partition("<script>")[0])
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", text)


def test_events_begin_with_the_plan_and_go_on_with_the_tree_each_second() -> None:
    with start(grpc_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        with stream(pipeline.admin_address) as lines:
            head = lines.readline() + b"".join(iter(lines.readline, b"\r\n"))
            kind, hello = next_event(lines)
            ticks = [next_event(lines) for _ in range(2)]
        assert hello["addresses"] == {"grpc": pipeline.address}
    assert b"200 OK" in head
    assert b"Content-Type: text/event-stream" in head
    assert (kind, hello["page"]) == ("hello", page().version)
    assert [part["name"] for part in hello["plan"]["parts"]][-1] == "emitter:partner"
    assert [kind for kind, _ in ticks] == ["tick", "tick"]
    assert ticks[0][1]["lanes"][0]["ingest"]["accepted"] == 1
    assert ticks[1][1]["time_ns"] - ticks[0][1]["time_ns"] > 0.5e9
    assert "plan" not in ticks[0][1]


def test_the_stream_ends_with_the_pipeline() -> None:
    with start() as pipeline, stream(pipeline.admin_address) as lines:
        body(lines)
        assert next_event(lines)[0] == "hello"
        pipeline.stop()
        while (kind := next_event(lines)[0]) == "tick":
            pass
        assert kind == ""


def test_so_many_read_as_may_and_one_that_does_not_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_READERS", 2)
    monkeypatch.setattr(live, "_TICK_SECONDS", 0.01)
    with start() as pipeline, stream(pipeline.admin_address) as deaf, stream(pipeline.admin_address) as lines:
        deaf.readline()  # it is counted
        body(lines)
        assert get(pipeline.admin_address, "/events")[0] == 503
        for _ in range(50):
            pipeline.sender().send(new_event("order", source="shop"))
            assert next_event(lines)[0] in ("hello", "tick")


def test_the_stream_needs_the_token_and_the_page_does_not() -> None:
    with start(admin_token="t0ken") as pipeline:
        assert get(pipeline.admin_address, "/")[0] == 200
        assert get(pipeline.admin_address, "/events")[0] == 401
        with stream(pipeline.admin_address, headers="Authorization: Bearer t0ken\r\n") as lines:
            assert b"200 OK" in lines.readline()
        assert get(pipeline.admin_address, "/events", {"Origin": "https://evil.example"})[0] == 403


class Watched:
    """Statistics of a pipeline that is at rest, and how often they were asked for."""

    def __init__(self, tree: PipelineStatistics) -> None:
        self.tree = tree
        self.asked = 0
        self.error: Exception | None = None
        self.unhealthy: dict[str, PartHealth] = {}

    async def statistics(self) -> PipelineStatistics:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.tree

    def live(self) -> Live:
        return Live(self.statistics, lambda tree: self.unhealthy, {})


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(live, "_TICK_SECONDS", 0.001)
    with Hub(runtime="inline").emitter(partner).start() as pipeline:
        return Watched(pipeline.statistics())


async def pull(events: AsyncGenerator[bytes, None]) -> tuple[str, Any]:
    kind, data = (await anext(events)).decode().strip().split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_nobody_asks_for_statistics_each_second_while_no_page_is_open(watched: Watched) -> None:
    looks = watched.live()
    looks.start("127.0.0.1:9")
    async with asyncio.timeout(30):
        while not watched.asked:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert watched.asked == 1
    async with aclosing(looks.follow()) as events:
        assert [(await pull(events))[0] for _ in range(4)] == ["hello", "tick", "tick", "tick"]
    await asyncio.sleep(0.01)
    asked = watched.asked
    await asyncio.sleep(0.05)
    assert watched.asked == asked
    looks.close()


async def test_of_many_that_ask_at_once_no_more_read_than_may(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_READERS", 1)
    looks = watched.live()
    looks.start("127.0.0.1:9")
    async with aclosing(looks.follow()) as first, aclosing(looks.follow()) as second:
        assert (await pull(first))[0] == "hello"
        with pytest.raises(StopAsyncIteration):
            await anext(second)
    async with aclosing(looks.follow()) as third:
        assert (await pull(third))[0] == "hello"
    looks.close()


async def test_trouble_is_told_and_the_stream_goes_on(watched: Watched) -> None:
    looks = watched.live()
    looks.start("127.0.0.1:9")
    async with aclosing(looks.follow()) as events:
        assert (await pull(events))[0] == "hello"
        for error in (UnavailableError("the supervisor is away"), ValueError("of user code")):
            watched.error = error
            while (told := await pull(events))[0] != "trouble":
                pass
            assert str(error) in told[1]["text"]
            watched.error = None
            while (await pull(events))[0] != "tick":
                pass
    looks.close()


async def test_a_part_that_statistics_do_not_know_is_among_the_others(watched: Watched) -> None:
    watched.unhealthy = {"event_loop": PartHealth(healthy=False, message="blocked")}
    looks = watched.live()
    looks.start("127.0.0.1:9")
    async with aclosing(looks.follow()) as events:
        await pull(events)
        _, tick = await pull(events)
    assert tick["parts"]["event_loop"]["message"] == "blocked"
    assert tick["healthy"] is False
    looks.close()


def test_history_is_of_ten_minutes_and_forgets_parts_that_are_no_more(watched: Watched) -> None:
    from msgspec.structs import replace

    (lane,) = watched.tree.lanes
    assert lane.ingest is not None
    history = History()
    for number in range(125):
        ingest = replace(lane.ingest, received=10 * number if number != 123 else 0, open_messages=number)
        lanes = (replace(lane, ingest=ingest, buffer=lane.buffer if number < 124 else None),)
        history.add(replace(watched.tree, time_ns=(number + 1) * 5_000_000_000, lanes=lanes))
    assert not history.is_due(126 * 5_000_000_000 - 1)
    assert history.is_due(126 * 5_000_000_000)
    told = history.to_json()
    rates, waiting = told["parts"]["ingest"]
    assert (len(rates), rates[-3:], waiting[-1]) == (120, [2.0, 0.0, 248.0], 124)
    assert told["time"] == 625.0
    assert "buffer" not in told["parts"]
