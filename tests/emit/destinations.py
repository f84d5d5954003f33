"""The real destinations of the built-in emitters, for the conformance suite."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

from aiohttp import web

from polku import ActorEmitter, AhtiEmitter, ExternalEmitter, GrpcEmitter, StdoutEmitter, WebhookEmitter
from polku.testing import Ability, AhtiServer, Destination
from tests.emit.file_store import FileStore
from tests.emit.sink import Sink
from tests.external.program import Program

PER_EVENT = Ability.REFUSE | Ability.BUSY


class Ahti(Destination):
    """The small AHTI of `polku.testing`."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | PER_EVENT

    def __init__(self) -> None:
        self.server = AhtiServer()

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        self.server.release()
        await self.server.stop()

    def emitter(self) -> object:
        return AhtiEmitter(self.server.address, timeout=10)

    async def held(self) -> list[str]:
        return self.server.ids

    async def kill(self) -> None:
        await self.server.stop()

    async def hang(self) -> None:
        self.server.hold()

    async def resume(self) -> None:
        self.server.release()

    async def is_waited_for(self) -> bool:
        return self.server.waiting > 0

    async def refuse(self, ids: Collection[str]) -> None:
        self.server.refuse = lambda events: "as asked" if any(event.id in ids for event in events) else None

    async def busy(self, ids: Collection[str]) -> None:
        self.server.busy = ids


class Gateway(Destination):
    """A gateway that counts what it gets."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | PER_EVENT

    def __init__(self) -> None:
        self.sink = Sink()

    async def start(self) -> None:
        await self.sink.start(self.sink.port)

    async def stop(self) -> None:
        self.sink.release()
        await self.sink.stop()

    def emitter(self) -> object:
        return GrpcEmitter(self.sink.address, timeout=10)

    async def held(self) -> list[str]:
        return self.sink.taken

    async def kill(self) -> None:
        await self.sink.stop()

    async def hang(self) -> None:
        self.sink.hold()

    async def resume(self) -> None:
        self.sink.release()

    async def is_waited_for(self) -> bool:
        return self.sink.waiting > 0

    async def refuse(self, ids: Collection[str]) -> None:
        self.sink.refuse = dict.fromkeys(ids, "INVALID_EVENT").get

    async def busy(self, ids: Collection[str]) -> None:
        self.sink.refuse = dict.fromkeys(ids, "BUFFER_FULL").get


class Webhook(Destination):
    """An HTTP endpoint; it answers for a request as a whole."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.port = self.waiting = 0
        self.released = asyncio.Event()
        self.released.set()
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        self.released.set()
        await self.kill()

    def emitter(self) -> object:
        return WebhookEmitter(f"http://127.0.0.1:{self.port}/")

    async def held(self) -> list[str]:
        return self.ids

    async def kill(self) -> None:
        runner, self.runner = self.runner, None
        if runner is not None:
            await runner.cleanup()

    async def hang(self) -> None:
        self.released.clear()

    async def resume(self) -> None:
        self.released.set()

    async def is_waited_for(self) -> bool:
        return self.waiting > 0

    async def handle(self, request: web.Request) -> web.Response:
        self.ids += [event["id"] for event in await request.json()]
        self.waiting += 1
        try:
            await self.released.wait()
        finally:
            self.waiting -= 1
        return web.Response()


class Stdout(Destination):
    """This process's standard output, with a reader at the other end of the pipe."""

    abilities = Ability.ORDER

    def __init__(self) -> None:
        self.data = bytearray()
        self.marks = 0

    async def start(self) -> None:
        sys.stdout.flush()
        self.replaced, sys.stdout = sys.stdout, sys.__stdout__  # the real one, whatever the test runner put there
        self.own = os.dup(1)
        self.end, write = os.pipe()
        os.dup2(write, 1)
        os.close(write)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    async def stop(self) -> None:
        os.dup2(self.own, 1)  # the last writing end of the pipe: its reader comes to an end
        os.close(self.own)
        sys.stdout = self.replaced
        await asyncio.to_thread(self.reader.join)
        os.close(self.end)

    def emitter(self) -> object:
        return StdoutEmitter()

    async def held(self) -> list[str]:
        self.marks += 1
        mark = f"mark {self.marks}\n".encode()
        os.write(1, mark)  # what was printed before it has been read when it has
        async with asyncio.timeout(30):
            while mark not in self.data:  # noqa: ASYNC110 - the reader is a thread
                await asyncio.sleep(0.005)
        return [json.loads(line)["id"] for line in self.data.splitlines() if line.startswith(b"{")]

    def read(self) -> None:
        while data := os.read(self.end, 65536):
            self.data += data


class Folder(Destination):
    """What a `FileStore` writes, in whatever process it runs."""

    abilities = Ability.ORDER | Ability.HANG | PER_EVENT

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = FileStore(self.folder)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        await self.resume()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def held(self) -> list[str]:
        return self.store.read("held")

    async def hang(self) -> None:
        (self.folder / "hang").touch()

    async def resume(self) -> None:
        (self.folder / "hang").unlink(missing_ok=True)

    async def is_waited_for(self) -> bool:
        return (self.folder / "waiting").exists()

    async def refuse(self, ids: Collection[str]) -> None:
        (self.folder / "refused").write_text("\n".join(ids))

    async def busy(self, ids: Collection[str]) -> None:
        (self.folder / "busy").write_text("\n".join(ids))


class Plugin(Folder):
    """A plugin in a process of its own, which is killed."""

    abilities = Folder.abilities | Ability.KILL

    def __init__(self) -> None:
        super().__init__()
        script = str(Path(__file__).with_name("file_store.py"))
        self.program = Program([sys.executable, script], self.folder / "log", FOLDER=str(self.folder))

    async def start(self) -> None:
        await asyncio.to_thread(self.program.start)

    async def stop(self) -> None:
        await self.resume()
        await asyncio.to_thread(self.program.kill)
        await super().stop()

    def emitter(self) -> object:
        return ExternalEmitter("file", self.program.address, timeout=10, health_interval=0.2)

    async def kill(self) -> None:
        await asyncio.to_thread(self.program.kill)
        (self.folder / "waiting").unlink(missing_ok=True)


class Actor(Folder):
    """An actor on the Ray that runs."""

    handle: Any = None

    async def start(self) -> None:
        import ray

        self.handle = ray.remote(FileStore).options(num_cpus=0).remote(self.folder)

    async def stop(self) -> None:
        import ray

        await self.resume()
        ray.kill(self.handle)
        await super().stop()

    def emitter(self) -> object:
        return ActorEmitter(self.handle, "emit")


class Function(Folder):
    """A class of the user's, which runs where the pipeline runs; it would hold that up if it hung."""

    abilities = Ability.ORDER | PER_EVENT

    def emitter(self) -> object:
        return self.store
