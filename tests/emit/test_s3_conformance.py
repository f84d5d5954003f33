"""The S3Emitter keeps what is expected of every emitter: with a folder, and with an endpoint that dies and hangs."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from polku import Batch, S3Emitter, new_event
from polku.clock import SystemClock
from polku.testing import Ability, Destination, EmitterCheck, emitter_checks
from tests.emit.s3_server import S3Server
from tests.support.ports import free_port

_HOP = {"host", "content-length", "transfer-encoding", "connection", "date", "server"}


class FolderDestination(Destination):
    """A folder of the local file system."""

    abilities = Ability.NONE

    async def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()

    async def stop(self) -> None:
        self.folder.cleanup()

    def emitter(self) -> S3Emitter:
        return S3Emitter(Path(self.folder.name).as_uri())

    async def held(self) -> list[str]:
        contents = [path.read_bytes() for path in sorted(Path(self.folder.name).rglob("*.ndjson"))]  # noqa: ASYNC240
        return _ids(contents)


class EndpointDestination(Destination):
    """An S3 endpoint behind a proxy, so that what is stored outlives its death, and answers can be held back."""

    abilities = Ability.KILL | Ability.HANG
    server: S3Server

    def __init__(self) -> None:
        self.port = free_port()
        self.owed = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.runner: web.AppRunner | None = None
        self.session: ClientSession | None = None
        self.server.post("/moto-api/reset")
        self.server.client().create_bucket(Bucket="events")

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self.runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True)
        await self.runner.setup()
        self.session = ClientSession(auto_decompress=False)
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        await self.kill()

    async def kill(self) -> None:
        runner, self.runner = self.runner, None
        if runner is not None:
            await runner.cleanup()
        session, self.session = self.session, None
        if session is not None:  # requests that were cut off leave it open
            await session.close()

    async def hang(self) -> None:
        self.owed = 0
        self.answering.clear()

    async def resume(self) -> None:
        self.answering.set()

    async def is_waited_for(self) -> bool:
        return self.owed > 0

    def emitter(self) -> S3Emitter:
        options = {**self.server.options, "endpoint": f"http://127.0.0.1:{self.port}"}
        return S3Emitter("s3://events", options=options, timeout=5)

    async def held(self) -> list[str]:
        return _ids(list((await asyncio.to_thread(self.server.objects)).values()))

    async def _pass_on(self, request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers["Host"] = f"127.0.0.1:{self.port}"  # the signature is over the name that the emitter knows
        url, data = f"{self.server.url}{request.raw_path}", BytesIO(await request.read())
        assert self.session is not None
        async with self.session.request(request.method, url, data=data, headers=headers) as answer:
            body = await answer.read()
        self.owed += 1
        await self.answering.wait()
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        return web.Response(status=answer.status, body=body, headers=kept)


def _ids(contents: list[bytes]) -> list[str]:
    return [json.loads(line)["id"] for content in contents for line in content.splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = EndpointDestination.server = S3Server()
    yield server
    server.kill()


@pytest.mark.parametrize("check", emitter_checks(FolderDestination.abilities), ids=str)
async def test_with_a_folder(check: EmitterCheck) -> None:
    await check.run(FolderDestination())


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("check", emitter_checks(EndpointDestination.abilities), ids=str)
async def test_with_an_endpoint(check: EmitterCheck) -> None:
    await check.run(EndpointDestination())


class Slow(EndpointDestination):
    """An endpoint that takes no part and no object before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.taking = asyncio.Event()
        self.requests: list[str] = []

    async def _pass_on(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.query_string.partition('=')[0]}")
        if request.method == "PUT":
            await self.taking.wait()
        return await super()._pass_on(request)


@pytest.mark.usefixtures("server")
async def test_an_upload_that_is_given_up_is_finished_and_not_begun_again() -> None:
    destination = Slow()
    await destination.start()
    events = [new_event("t", source="s", id=str(n), payload=os.urandom(1024 * 1024)) for n in range(12)]
    config = replace(destination.emitter(), format="protobuf", part_bytes=5 * 1024 * 1024, timeout=20)
    running = config.build(SystemClock())
    first = asyncio.ensure_future(running.emit(Batch.from_events(events)))
    await until(lambda: destination.requests.count("PUT partNumber") == 3)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(running.emit(Batch.from_events(events)))
    await asyncio.sleep(0.2)
    destination.taking.set()
    assert await second == []
    assert destination.requests.count("POST uploads") == 1
    assert len(destination.server.objects()) == 1
    assert not destination.server.client().list_multipart_uploads(Bucket="events").get("Uploads")
    await running.close()
    await destination.stop()


@pytest.mark.usefixtures("server")
async def test_a_close_waits_a_moment_for_an_upload_that_was_given_up() -> None:
    destination = Slow()
    await destination.start()
    running = destination.emitter().build(SystemClock())
    emitting = asyncio.ensure_future(running.emit(Batch.from_events([new_event("t", source="s")])))
    await until(lambda: bool(destination.requests))
    emitting.cancel()
    closing = asyncio.ensure_future(running.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    destination.taking.set()
    await asyncio.wait_for(closing, 30)
    assert len(destination.server.objects()) == 1
    await destination.stop()


async def test_work_that_nobody_waits_for_takes_no_more_threads_than_objects_at_once(tmp_path: Path) -> None:
    let, working = threading.Event(), []
    running = S3Emitter(tmp_path.as_uri(), concurrency=2).build(SystemClock())

    def draft(payload: bytes) -> tuple[list[object], list[object]]:
        working.append(threading.current_thread())
        let.wait(60)
        return [], []

    running._draft = draft  # type: ignore[method-assign, assignment]
    for _ in range(20):
        emitting = asyncio.ensure_future(running.emit(Batch.from_events([new_event("t")])))
        await asyncio.sleep(0.005)
        emitting.cancel()
        await asyncio.wait([emitting])
    assert len(working) == 2
    let.set()
    assert await asyncio.wait_for(running.emit(Batch.from_events([new_event("t")])), 30) == []
    await running.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - the endpoint has no event for it
            await asyncio.sleep(0.01)
