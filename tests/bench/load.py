"""The two ends of a benchmark, each a process of its own: a generator of pre-built batches and a counting sink."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import suppress
from itertools import pairwise

import grpc.aio

from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch
from polku.views import read_envelope

METHOD = "/polku.v1.Gateway/StreamEvents"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def batches(events: int, size: int, payload: int) -> list[bytes]:
    """Build serialised `IngestBatch`es of about 80 + `payload` bytes an event, each id once."""
    built = []
    for start in range(0, events, size):
        message = IngestBatch(source="bench")
        for number in range(start, min(start + size, events)):
            message.events.events.add(
                id=f"event-{number:012d}",
                timestamp_unix_ns=1_700_000_000_000_000_000 + number,
                source="bench-agent",
                event_type="user.login",
                metadata={"region": "eu"},
                payload=b"x" * payload,
                severity=2,
            )
        built.append(message.SerializeToString())
    return built


async def generate(target: str, events: int, size: int, payload: int, in_flight: int) -> dict[str, float]:
    """Send all batches over one stream, `in_flight` at a time, and count what is acknowledged."""
    messages = batches(events, size, payload)
    places = asyncio.Semaphore(in_flight)
    acked = refused = 0
    async with grpc.aio.insecure_channel(target, UNLIMITED) as channel:
        await channel.channel_ready()
        call = channel.stream_stream(METHOD)()

        async def read() -> None:
            nonlocal acked, refused
            while (data := await call.read()) is not grpc.aio.EOF:
                ack = Ack.FromString(data)
                acked += len(ack.event_ids)
                refused += len(ack.errors)
                places.release()

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        reader = asyncio.create_task(read())
        started = time.perf_counter()
        for message in messages:
            await places.acquire()
            await call.write(message)
        await call.done_writing()
        await reader
        seconds = time.perf_counter() - started
    return {"acked": acked, "refused": refused, "seconds": seconds}


class Sink:
    """Serve `polku.v1.Gateway`, acknowledge everything, keep the payloads and look at them at the end."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.payloads: list[bytes] = []
        self.count = 0
        self.first = self.last = 0.0
        self.done = asyncio.Event()

    async def stream_events(self, requests, context):  # type: ignore[no-untyped-def]
        async for data in requests:
            self.first = self.first or time.perf_counter()
            payload = read_envelope(data).events
            ids = [event.id for event in EventPayload.FromString(payload).events]
            self.payloads.append(payload)
            self.count += len(ids)
            self.last = time.perf_counter()
            await context.write(Ack(event_ids=ids))
            if self.count >= self.expected:
                self.done.set()

    def verdict(self) -> dict[str, float]:
        """Compare by id what came with what was sent."""
        numbers = []
        corrupted = 0
        for payload in self.payloads:
            for event in EventPayload.FromString(payload).events:
                number = int(event.id.removeprefix("event-"))
                numbers.append(number)
                corrupted += event.timestamp_unix_ns != 1_700_000_000_000_000_000 + number
        reordered = sum(b < a for a, b in pairwise(numbers))
        unique = len(set(numbers))
        return {
            "delivered": unique,
            "duplicates": len(numbers) - unique,
            "lost": self.expected - unique,
            "reordered": reordered,
            "corrupted": corrupted,
            "seconds": self.last - self.first,
        }


async def sink(expected: int) -> dict[str, float]:
    """Serve until everything expected came, or nothing more does after standard input ends."""
    service = Sink(expected)
    server = grpc.aio.server(options=UNLIMITED)
    handler = grpc.stream_stream_rpc_method_handler(service.stream_events, response_serializer=Ack.SerializeToString)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("polku.v1.Gateway", {"StreamEvents": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.readline)  # the generator is through
    with suppress(TimeoutError):
        await asyncio.wait_for(service.done.wait(), 30)
    await server.stop(0)
    return service.verdict()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["sink", "generate"])
    parser.add_argument("--target", default="")
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--payload", type=int, default=40)
    parser.add_argument("--in-flight", type=int, default=32)
    options = parser.parse_args()
    if options.role == "sink":
        result = asyncio.run(sink(options.events))
    else:
        result = asyncio.run(
            generate(options.target, options.events, options.batch, options.payload, options.in_flight)
        )
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
