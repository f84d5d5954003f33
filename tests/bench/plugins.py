"""What a plugin costs: latency of a call, and events a second, against a bare gRPC echo in the same run.

    python -m tests.bench.plugins --rounds 3

`router` is a call as the pipeline makes it (`ExternalIngestor`: bytes in, events out), `bare call` the same request to
the same plugin by a plain `grpc.aio` stub that reads nothing, `echo` a plain `grpc.aio` server and stub that pass as
many bytes and read none. The plugins are the programs of `examples/plugins`; without Go the rows of Go are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio

from polku import ExternalIngestor
from polku.bench import Load, Subject
from polku.bench.machine import describe, machine
from polku.bench.trial import session
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.histogram import Histogram
from polku.v1.gateway_pb2 import Ack, IngestBatch, RawPayload
from polku.v1.plugin_pb2 import IngestRequest
from tests.bench.plugin_programs import ECHO, SOURCE, built, running

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
METHOD = "/polku.v1.IngestorPlugin/Ingest"
SIZES = (1, 100, 1_000)
FLIGHTS = (1, 4, 16, 64)
PIPELINE = """
import os
from polku import ExternalIngestor, GrpcEmitter, Hub
hub = Hub().ingestor(ExternalIngestor({source!r}, os.environ["PLUGIN"])).emitter(GrpcEmitter("127.0.0.1:9"))
"""

Call = Callable[[bytes], Awaitable[Any]]


class Figures(NamedTuple):
    p50: float
    p99: float
    events_per_s: float


def lines(count: int, number: int = 0) -> bytes:
    return b"".join(b"info event %d of message %d, with a few words more to it\n" % (n, number) for n in range(count))


async def timed(call: Call, events: int, calls: int, in_flight: int = 1) -> Figures:
    """Make so many calls, so many at once; the first tenth is not counted."""
    histogram = Histogram()
    data = lines(events)
    left = calls

    async def one_after_the_other() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await call(data)
            histogram.record(time.perf_counter() - started)

    for _ in range(max(3, calls // 10)):
        await call(data)
    started = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    rate = calls * events / (time.perf_counter() - started)
    return Figures(1e6 * (histogram.percentile(50) or 0), 1e6 * (histogram.percentile(99) or 0), rate)


@asynccontextmanager
async def router(address: str) -> AsyncIterator[Call]:
    """Call as the pipeline does."""
    ingestor = ExternalIngestor(SOURCE, address).build(SystemClock())
    await ingestor.start()
    context = IngestContext(SOURCE)
    yield lambda data: ingestor.ingest(data, context)
    await ingestor.close()


@asynccontextmanager
async def bare(address: str) -> AsyncIterator[Call]:
    """Call by a plain stub."""
    async with grpc.aio.insecure_channel(address, UNLIMITED) as channel:
        stub: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
        yield lambda data: stub(IngestRequest(source=SOURCE, data=data).SerializeToString())


async def latencies(plugin: str, echo: str, calls: int) -> list[tuple[int, Figures, Figures, Figures]]:
    """Measure router, bare call and echo in turns, for each size."""
    found = []
    for events in SIZES:
        few = max(20, calls // (1 + events // 50))
        async with router(plugin) as routed, bare(plugin) as plain, bare(echo) as echoed:
            each = [await timed(call, events, few) for call in (routed, plain, echoed)]
        found.append((events, each[0], each[1], each[2]))
    return found


async def scaling(plugin: str, calls: int) -> dict[int, float]:
    """Return events a second by the number of calls in flight, 1,000 events each."""
    async with router(plugin) as routed:
        return {
            flight: (await timed(routed, 1_000, max(calls // 10, flight), flight)).events_per_s for flight in FLIGHTS
        }


async def stream(address: str, messages: int, in_flight: int = 32) -> float:
    """Send raw batches of 1,000 records to a pipeline; return the events acknowledged a second."""
    places, acked = asyncio.Semaphore(in_flight), 0
    batches = [
        IngestBatch(source=SOURCE, raw=RawPayload(data=lines(1_000, number))).SerializeToString()
        for number in range(messages)
    ]
    async with grpc.aio.insecure_channel(address, UNLIMITED) as channel:
        call: Any = channel.stream_stream("/polku.v1.Gateway/StreamEvents")()  # type: ignore[call-arg]

        async def read() -> None:
            nonlocal acked
            async for answer in call:
                acked += len(Ack.FromString(answer).event_ids)
                places.release()

        reading = asyncio.create_task(read())
        started = time.perf_counter()
        for batch in batches:
            await places.acquire()
            await call.write(batch)
        await call.done_writing()
        await reading
    assert acked == messages * 1_000, f"{acked} of {messages * 1_000} were acknowledged"
    return acked / (time.perf_counter() - started)


def through_pipeline(plugin: str, messages: int) -> float:
    """Return events a second through a whole inline pipeline with the plugin as its ingestor."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.py"
        file.write_text(PIPELINE.format(source=SOURCE))
        with session(Subject(file=str(file), environment={"PLUGIN": plugin}), Load(events=1)) as pipeline:
            return asyncio.run(stream(pipeline.address, messages))


@contextmanager
def both(command: Sequence[str], socket: str, folder: str) -> Iterator[tuple[str, str]]:
    """Run a plugin and an echo, and return their addresses."""
    program = [sys.executable, "-c", ECHO]
    with running(command, socket, f"{folder}/plugin") as plugin, running(program, socket, f"{folder}/echo") as echo:
        yield plugin, echo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--messages", type=int, default=200)
    options = parser.parse_args()
    languages = ["python", *(["go"] if shutil.which("go") else [])]
    columns = ("plugin", "events a call", "router, µs p50 / p99", "bare call", "echo", "router / bare call")
    print("|", " | ".join((*columns, "router / echo (≤ 1.3)")), "|")
    print("|---" * (len(columns) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        commands = {language: built(language, Path(folder)) for language in languages}
        for language, command in commands.items():
            for socket in ("tcp", "unix"):
                with both(command, socket, folder) as (plugin, echo):
                    rounds = [asyncio.run(latencies(plugin, echo, options.calls)) for _ in range(options.rounds)]
                _show(f"{language}, {socket}", rounds)
        print("\n| plugin, 1,000 events a call | events/s by calls in flight | through a pipeline, 32 in flight |")
        print("|---|---|---|")
        for language, command in commands.items():
            with running(command, "tcp", folder) as plugin:
                found = [asyncio.run(scaling(plugin, options.calls)) for _ in range(options.rounds)]
                whole = statistics.median(through_pipeline(plugin, options.messages) for _ in range(options.rounds))
            text = ", ".join(f"{flight}: {statistics.median(one[flight] for one in found):,.0f}" for flight in FLIGHTS)
            print(f"| {language} | {text} | {whole:,.0f}/s |", flush=True)
    print(f"\n{describe(machine())}")


def _show(name: str, rounds: list[list[tuple[int, Figures, Figures, Figures]]]) -> None:
    for place, events in enumerate(SIZES):
        columns = list(zip(*(one[place][1:] for one in rounds), strict=True))
        texts = [
            f"{statistics.median(f.p50 for f in figures):,.0f} / {statistics.median(f.p99 for f in figures):,.0f}"
            for figures in columns
        ]
        to_bare, to_echo = (
            statistics.median(routed.p50 / other.p50 for routed, other in zip(columns[0], columns[place], strict=True))
            for place in (1, 2)
        )
        verdict = "met" if to_echo <= 1.3 else "missed"
        print(f"| {name} | {events:,} | {' | '.join(texts)} | {to_bare:.2f} | {to_echo:.2f}, {verdict} |", flush=True)


if __name__ == "__main__":
    main()
