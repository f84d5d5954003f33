"""What an HTTP address answers in each state of the pipeline: full, busy, draining, unable to open."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from polku import BufferStrategy, Event, Hub, Limits, Pipeline, SettingError
from tests.gateway.http_client import Answer, connect, curl, post
from tests.support.recorder import Recorder


def test_without_the_token_it_is_401(recorder: Recorder) -> None:
    token = uuid.uuid4().hex
    hub = Hub(runtime="inline").emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0", http_token=token) as pipeline:
        address = str(pipeline.http_address)
        wrong: list[list[str]] = [[], ["-H", "Authorization: Bearer x"], ["-H", f"Authorization: Basic {token}"]]
        for options in wrong:
            answer = post(address, b'{"id": "a"}', "application/json", *options)
            assert (answer.status, answer.codes) == (401, ["UNAUTHENTICATED"])
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert token not in answer.message
        for scheme in ("Bearer", "bearer"):
            answer = post(address, b'{"id": "a"}', "application/json", "-H", f"Authorization: {scheme} {token}")
            assert answer.ids == ["a"]
        assert curl(address, "/health").status == 200
    assert len(recorder.events()) == 2


def test_a_full_buffer_is_429_with_a_time_to_come_back(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2, overflow="drop_newest")).emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        partly = post(address, b'[{"id": "1"}, {"id": "2"}, {"id": "3"}]')
        assert (partly.status, partly.ids, partly.codes) == (200, ["1", "2"], ["BUFFER_FULL"])
        full = post(address, b'{"id": "4"}')
        assert (full.status, full.codes, full.headers["retry-after"]) == (429, ["BUFFER_FULL"], "1")
        assert full.body["buffer_size"] == 2
        recorder.release()
        recorder.wait_for(2)
        assert _until(lambda: post(address, b'{"id": "5"}'), 200).ids == ["5"]


async def test_too_much_under_way_is_429(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").limits(Limits(open_bytes=1_000)).buffer_strategy(BufferStrategy.ring(1))
    async with hub.emitter(recorder).start(http_addr="127.0.0.1:0") as pipeline, aiohttp.ClientSession() as session:
        url = f"http://{pipeline.http_address}/v1/events"

        async def look(_: int) -> None:
            async with session.get(f"http://{pipeline.http_address}/health") as answer:
                await answer.read()

        await asyncio.gather(*map(look, range(8)))  # connections that are open bring their requests in one turn

        async def send(number: int) -> int:
            async with session.post(url, json={"id": f"{number}", "event_type": "x" * 250}) as answer:
                return answer.status

        waiting = [asyncio.ensure_future(send(number)) for number in range(8)]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        while not any(task.result() == 429 for task in done):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        recorder.release()
        statuses = await asyncio.gather(*waiting)
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 4
    assert len(recorder.events()) == statuses.count(200)


async def test_while_draining_it_is_503_with_a_time_to_come_back(recorder: Recorder) -> None:
    recorder.hold()
    hub = Hub(runtime="inline").emitter(recorder)
    async with hub.start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        assert (await asyncio.to_thread(post, address, b'{"id": "a"}')).ids == ["a"]
        stopping = asyncio.ensure_future(pipeline.stop_async(20))
        health = await asyncio.to_thread(_until, lambda: curl(address, "/health"), 503)
        assert not health.body["components"]["ingest"]["healthy"]
        answer = await asyncio.to_thread(post, address, b'{"id": "b"}')
        assert (answer.status, answer.codes) == (503, ["DRAINING"])
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["connection"] == "close"
        recorder.release()
        assert (await stopping).complete
    with pytest.raises(OSError):  # noqa: PT011 - refused
        connect(address)
    assert [event.id for event in recorder.events()] == ["a"]


def test_events_that_all_became_dead_letters_are_not_worth_sending_again(recorder: Recorder) -> None:
    def fail(event: Event) -> None:
        raise ValueError("never")

    def broken(data: bytes) -> list[Event]:
        raise RuntimeError("cannot")

    hub = Hub(runtime="inline").ingestor(broken, source="broken").middleware(fail).emitter(recorder)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.http_address)
        answer = post(address, b'{"id": "a"}')
        assert (answer.status, answer.codes) == (422, ["MIDDLEWARE_ERROR"])
        answer = post(address, b"x", "text/plain", query="?source=broken")
        assert (answer.status, answer.codes) == (500, ["INGESTOR_ERROR"])


@pytest.mark.parametrize("wrong", ["nowhere", "127.0.0.1:99999", "256.1.1.1:0", "127.0.0.1:x"])
def test_an_address_that_cannot_be_opened_is_named(recorder: Recorder, wrong: str) -> None:
    with pytest.raises(SettingError, match="http_addr=") as caught:
        Hub(runtime="inline").emitter(recorder).start(http_addr=wrong)
    assert repr(wrong) in str(caught.value)


def test_a_port_in_use_is_named_and_no_other_door_stays_open(pipeline: Pipeline, tmp_path: Path) -> None:
    taken = str(pipeline.http_address)
    free = connect(taken)
    own = free.getsockname()
    free.close()
    with pytest.raises(SettingError, match="in use"):
        Hub(runtime="inline").emitter(Recorder(tmp_path / "x")).start(grpc_addr=f"127.0.0.1:{own[1]}", http_addr=taken)
    with pytest.raises(OSError):  # noqa: PT011 - refused
        connect(f"127.0.0.1:{own[1]}")


def test_it_can_be_open_on_a_unix_socket(recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with Hub(runtime="inline").emitter(recorder).start(http_addr=f"unix:{path}") as pipeline:
        assert pipeline.http_address == f"unix:{path}"
        assert curl("x", "/health", "--unix-socket", str(path)).status == 200


def _until(ask: Any, status: int) -> Answer:
    deadline = time.monotonic() + 30
    while (answer := ask()).status != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    return answer  # type: ignore[no-any-return]
