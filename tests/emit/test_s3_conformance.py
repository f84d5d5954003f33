"""The S3Emitter keeps what is expected of every emitter: with a folder, and with an endpoint that dies and hangs."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from polku import S3Emitter
from polku.testing import Ability, Destination, EmitterCheck, emitter_checks
from tests.emit.s3_server import S3Server, free_port

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
        self.server.post("/moto-api/reset")
        self.server.client().create_bucket(Bucket="events")

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self.runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        await self.kill()

    async def kill(self) -> None:
        runner, self.runner = self.runner, None
        if runner is not None:
            await runner.cleanup()

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
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, f"{self.server.url}{request.raw_path}", data=await request.read(), headers=headers
            ) as answer,
        ):
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
