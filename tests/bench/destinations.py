"""Delivered events per second and CPU per event of each emitter, beside the bare client library on the same payload.

    python -m tests.bench.destinations --rounds 5
    python -m tests.bench.destinations ahti --events 20000

Sink and sender are processes of their own on the same cores. The emitter gets batches as the buffer has them, and is
driven as a pipeline does it, with its resilience; the bare client sends the same messages, made beforehand, with as
many under way. Emitter and client take turns; medians are printed. CPU is the sender's. Another destination is one
more class in CONTENDERS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from polku.batch.batch import Batch
from polku.batch.frames import read_envelope
from polku.bench.workload import Workload

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Took = Callable[[int], None]


class Contender(Protocol):
    """A destination: a sink that counts, our emitter, and the bare client."""

    window: int

    async def serve(self, took: Took) -> str:
        """Begin to serve; return the address. Call `took` with the number of events of each message."""
        ...

    def emitter(self, address: str) -> Any:
        """Return our emitter."""
        ...

    def messages(self, built: list[Batch]) -> list[Any]:
        """Return what the bare client sends."""
        ...

    async def send(self, address: str, messages: list[Any]) -> None:
        """Send everything with the bare client, `window` messages under way, and return when all is confirmed."""
        ...


class Gateway:
    """`polku.v1.Gateway`, by grpcio."""

    window = 8
    method = "/polku.v1.Gateway/StreamEvents"

    async def serve(self, took: Took) -> str:
        import grpc.aio

        async def stream(requests: Any, context: Any) -> None:
            async for data in requests:
                count, ack = self.answer(data)
                took(count)
                await context.write(ack)

        server = grpc.aio.server(options=[*UNLIMITED, ("grpc.so_reuseport", 0)])
        service, name = self.method[1:].split("/")
        handler = grpc.stream_stream_rpc_method_handler(stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.server = server
        return f"127.0.0.1:{port}"

    def answer(self, data: bytes) -> tuple[int, bytes]:
        from polku.v1.gateway_pb2 import Ack, IngestBatch

        ids = [event.id for event in IngestBatch.FromString(data).events.events]
        return len(ids), Ack(event_ids=ids).SerializeToString()

    def emitter(self, address: str) -> Any:
        from polku import GrpcEmitter

        return GrpcEmitter(address, window=self.window)

    def messages(self, built: list[Batch]) -> list[Any]:
        from polku.v1.gateway_pb2 import EventPayload, IngestBatch

        return [
            IngestBatch(source="polku", events=EventPayload.FromString(batch.payload)).SerializeToString()
            for batch in built
        ]

    async def send(self, address: str, messages: list[Any]) -> None:
        import grpc.aio

        places = asyncio.Semaphore(self.window)
        async with grpc.aio.insecure_channel(address, UNLIMITED) as channel:
            method: Any = channel.stream_stream  # its annotations ask for functions that it does without
            call = method(self.method)()

            async def read() -> None:
                while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                    places.release()

            reader = asyncio.create_task(read())
            for message in messages:
                await places.acquire()
                await call.write(message)
            await call.done_writing()
            await reader


class Ahti(Gateway):
    """`ahti.v1.AhtiService`, by grpcio."""

    method = "/ahti.v1.AhtiService/StreamEvents"

    def answer(self, data: bytes) -> tuple[int, bytes]:
        from polku.ahti.v1.events_pb2 import AhtiAck, AhtiEventBatch

        ids = [event.id for event in AhtiEventBatch.FromString(data).events]
        return len(ids), AhtiAck(success=True, event_ids=ids).SerializeToString()

    def emitter(self, address: str) -> Any:
        from polku import AhtiEmitter

        return AhtiEmitter(address, window=self.window)

    def messages(self, built: list[Batch]) -> list[Any]:
        from polku.emit.ahti.mapping import ahti_batch

        return [ahti_batch(batch).SerializeToString() for batch in built]


class Webhook:
    """HTTP with a JSON array, by aiohttp."""

    window = 1

    async def serve(self, took: Took) -> str:
        import msgspec
        from aiohttp import web

        async def handle(request: web.Request) -> web.Response:
            took(len(msgspec.json.decode(await request.read())))
            return web.Response()

        app = web.Application(client_max_size=2**30)
        app.router.add_post("/", handle)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}/"

    def emitter(self, address: str) -> Any:
        from polku import WebhookEmitter

        return WebhookEmitter(address)

    def messages(self, built: list[Batch]) -> list[Any]:
        import msgspec

        from polku.emit.json_form import event_fields

        return [msgspec.json.encode([event_fields(event) for event in batch]) for batch in built]

    async def send(self, address: str, messages: list[Any]) -> None:
        import aiohttp

        async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
            for message in messages:
                async with session.post(address, data=message) as response:
                    await response.read()


CONTENDERS: dict[str, type[Contender]] = {"ahti": Ahti, "gateway": Gateway, "webhook": Webhook}


async def deliver(emitter: Any, built: list[Batch]) -> None:
    """Hand batches to an emitter as its outlet would."""
    from polku.clock import SystemClock
    from polku.emit.adapt import as_emitter
    from polku.emit.delivery import Delivery

    running = as_emitter(emitter, SystemClock())
    delivery = Delivery("bench", running)
    await delivery.start()
    places = asyncio.Semaphore(getattr(running, "concurrency", 1))
    async with asyncio.TaskGroup() as tasks:
        for batch in built:
            await places.acquire()
            tasks.create_task(_push(delivery.push(batch), places))
    await delivery.close()


async def _push(push: Awaitable[Any], places: asyncio.Semaphore) -> None:
    receipt = await push
    places.release()
    if receipt.refused:
        raise AssertionError(receipt.refused[0])


def prebuilt(options: argparse.Namespace) -> list[Batch]:
    """Build the batches as the buffer has them: bytes, with a header."""
    template = Workload(batch=options.batch, size=options.size).template()
    now = time.time_ns()
    messages = [template.message(number, now) for number in range(options.events // options.batch)]
    return [Batch(payload=read_envelope(message).content, routes=()).sealed() for message in messages]


async def send(contender: Contender, way: str, address: str, options: argparse.Namespace) -> dict[str, float]:
    """Send everything one way; return the seconds and the seconds of CPU that it took."""
    built = prebuilt(options)
    messages = contender.messages(built) if way == "bare" else []
    built = [] if way == "bare" else [Batch.from_wire(batch.header, batch.payload) for batch in built]
    wall, cpu = time.perf_counter(), time.process_time()
    if way == "bare":
        await contender.send(address, messages)
    else:
        await deliver(contender.emitter(address), built)
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


async def sink(contender: Contender) -> int:
    """Serve until standard input ends; return how many events came."""
    count = 0

    def took(events: int) -> None:
        nonlocal count
        count += events

    print(await contender.serve(took), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return count


def once(name: str, way: str, arguments: list[str]) -> dict[str, float]:
    """Run one sink and one sender."""
    command = [sys.executable, "-m", "tests.bench.destinations", name, *arguments]
    with subprocess.Popen(
        [*command, "--role", "sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdin is not None
        assert served.stdout is not None
        address = served.stdout.readline().strip()
        sender = [*command, "--role", way, "--address", address]
        result = json.loads(subprocess.run(sender, stdout=subprocess.PIPE, text=True, check=True).stdout)
        served.stdin.close()
        result["arrived"] = int(served.stdout.read())
    return dict(result)


def report(names: list[str], options: argparse.Namespace) -> None:
    """Let emitter and bare client take turns, and print medians."""
    arguments = [f"--{option}={getattr(options, option)}" for option in ("events", "batch", "size")]
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name in names:
            for way in ("emitter", "bare"):
                result = once(name, way, arguments)
                assert result["arrived"] == options.events, (name, way, result)
                results.setdefault((name, way), []).append(result)
                print(name, way, json.dumps(result), file=sys.stderr, flush=True)
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}, {options.events} events"
    )
    print("| destination | emitter, events/s | bare client, events/s | bare / emitter | emitter, µs CPU/event | bare |")
    print("|---|---|---|---|---|---|")
    for name in names:
        seconds = [statistics.median(r["seconds"] for r in results[name, way]) for way in ("emitter", "bare")]
        cpu = [statistics.median(r["cpu"] for r in results[name, way]) for way in ("emitter", "bare")]
        rates = " | ".join(f"{options.events / each:,.0f}" for each in seconds)
        spent = " | ".join(f"{each / options.events * 1e6:.2f}" for each in cpu)
        print(f"| {name} | {rates} | {seconds[0] / seconds[1]:.2f} | {spent} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="destination", help=f"some of {', '.join(CONTENDERS)}")
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=130, help="bytes an event")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--role", choices=["report", "sink", "emitter", "bare"], default="report")
    parser.add_argument("--address", default="")
    options = parser.parse_args()
    options.events -= options.events % options.batch
    names = options.names or list(CONTENDERS)
    if options.role == "report":
        report(names, options)
    elif options.role == "sink":
        print(asyncio.run(sink(CONTENDERS[names[0]]())))
    else:
        print(json.dumps(asyncio.run(send(CONTENDERS[names[0]](), options.role, options.address, options))))


if __name__ == "__main__":
    main()
