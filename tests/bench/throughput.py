"""Delivered events per second, CPU per event and losses, through Filter + Transform to a gRPC sink.

    python -m tests.bench.throughput --runtime inline --runtime ray --in-flight 8 --in-flight 32 --rounds 5

Generator, pipeline and sink are processes of their own on the same cores; the combinations take turns, and medians
over the rounds are printed; `+durable` puts a journal on disk in the middle. `--runtime bare` is the same work with
nothing around it, for comparison. CPU counts the pipeline alone (for Ray: its actors, without Ray's own daemons).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

PIPELINE = """
import sys, os, time, json, resource
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
from polku import Hub, Filter, Transform, GrpcEmitter, BufferStrategy
def mark(event): event.metadata["processed"] = "true"
runtime, port = sys.argv[1:3]
hub = Hub(runtime=runtime)
if "--pass-through" not in sys.argv:
    hub.middleware(Filter(lambda event: event.event_type.startswith("user."))).middleware(Transform(mark))
hub.emitter(GrpcEmitter(f"http://127.0.0.1:{port}"))
if "--durable" in sys.argv:
    import tempfile
    hub.buffer_strategy(BufferStrategy.durable(tempfile.mkdtemp() + "/journal.db"))
def usage():
    if runtime == "inline":
        r = resource.getrusage(resource.RUSAGE_SELF)
        anon = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
        return {"inline": (r.ru_utime + r.ru_stime, anon * 1024)}
    import ray
    sights, restarts = ray.get(pipeline._runtime.hub.sights.remote())
    return {name: (s.vitals.cpu_seconds, s.vitals.memory_bytes) for name, s in sights.items()}
started = time.perf_counter()
with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
    if runtime == "inline":  # as `polku run` does
        import polku.serving; polku.serving.tune_collector()
    print(json.dumps({"address": pipeline.address, "start": time.perf_counter() - started}), flush=True)
    before = usage(); sys.stdin.readline()
    after = usage()
    print(json.dumps({n: (after[n][0] - before[n][0], after[n][1]) for n in after}), flush=True)
"""

# The same work with nothing around it: what a program of a few lines reaches that checks, buffers and promises nothing.
BARE = """
import asyncio, json, resource, sys, time, grpc.aio
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch
import polku.serving
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
METHOD = "/polku.v1.Gateway/StreamEvents"
async def main():
    channel = grpc.aio.insecure_channel("127.0.0.1:" + sys.argv[2], UNLIMITED)
    out = channel.stream_stream(METHOD)()
    places = asyncio.Semaphore(8)
    async def acks():
        while await out.read() is not grpc.aio.EOF: places.release()
    reader = asyncio.create_task(acks())
    async def stream(requests, context):
        async for data in requests:
            batch = IngestBatch.FromString(data)
            events = list(batch.events.events)
            ids = [event.id for event in events]
            kept = [event for event in events if event.event_type.startswith("user.")]
            for event in kept: event.metadata["processed"] = "true"
            await places.acquire()
            await out.write(batch.SerializeToString())
            await context.write(Ack(event_ids=ids).SerializeToString())
    server = grpc.aio.server(options=UNLIMITED)
    handler = grpc.stream_stream_rpc_method_handler(stream)
    methods = {"StreamEvents": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.Gateway", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    polku.serving.tune_collector()
    print(json.dumps({"address": f"127.0.0.1:{port}", "start": 0}), flush=True)
    def usage():
        r = resource.getrusage(resource.RUSAGE_SELF)
        return r.ru_utime + r.ru_stime
    before = usage()
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps({"bare": (usage() - before, 0)}), flush=True)
    out.cancel(); await server.stop(0)
asyncio.run(main())
"""


RUNTIMES = ["inline", "ray", "bare", "inline+durable", "ray+durable"]


def once(runtime: str, in_flight: int, events: int, batch: int, payload: int, bare: bool) -> dict[str, Any]:
    """Run one round and return its figures."""
    load = [sys.executable, "-m", "tests.bench.load"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sink = subprocess.Popen([*load, "sink", "--events", str(events)], **pipes)
    port = sink.stdout.readline().strip()
    runtime, _, buffer = runtime.partition("+")
    extra = [*(["--pass-through"] if bare else []), *(["--durable"] if buffer else [])]
    pipeline = subprocess.Popen(
        [sys.executable, "-c", BARE if runtime == "bare" else PIPELINE, runtime, port, *extra], **pipes
    )
    ready = json.loads(pipeline.stdout.readline())
    options = ["--events", events, "--batch", batch, "--in-flight", in_flight, "--payload", payload]
    generator = subprocess.Popen([*load, "generate", "--target", ready["address"], *map(str, options)], **pipes)
    generator.stdout.readline()
    generator.stdin.write("\n")
    generator.stdin.flush()
    sent = json.loads(generator.stdout.readline())
    sink.stdin.write("\n")
    sink.stdin.flush()
    got = json.loads(sink.stdout.readline())
    pipeline.stdin.write("\n")
    pipeline.stdin.flush()
    usage = json.loads(pipeline.stdout.readline())
    for process in (generator, sink, pipeline):
        process.communicate(timeout=60)
    cpu = sum(seconds for seconds, _ in usage.values())
    return {
        "rate": events / got["seconds"],
        "cpu": cpu / events * 1e6,
        "parts": {name: round(seconds / events * 1e6, 2) for name, (seconds, _) in usage.items()},
        "memory": {name: round(memory / 1e6, 1) for name, (_, memory) in usage.items()},
        "start": ready["start"],
        **{key: got[key] for key in ("lost", "duplicates", "reordered", "corrupted")},
        "refused": sent["refused"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--in-flight", action="append", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--payload", type=int, default=40)
    parser.add_argument("--pass-through", action="store_true", help="no middleware")
    options = parser.parse_args()
    combinations = [(r, n) for r in options.runtime or ["inline", "ray"] for n in options.in_flight or [8, 32]]
    results: dict[tuple[str, int], list[dict[str, Any]]] = {combination: [] for combination in combinations}
    for _ in range(options.rounds):
        for runtime, in_flight in combinations:
            result = once(runtime, in_flight, options.events, options.batch, options.payload, options.pass_through)
            results[runtime, in_flight].append(result)
            print(runtime, in_flight, json.dumps(result), file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}")
    print("| runtime | in flight | events/s | µs CPU/event | lost | duplicated | reordered | corrupted |")
    print("|---|---|---|---|---|---|---|---|")
    for (runtime, in_flight), rounds in results.items():
        rate = statistics.median(r["rate"] for r in rounds)
        cpu = statistics.median(r["cpu"] for r in rounds)
        faults = " | ".join(str(sum(r[k] for r in rounds)) for k in ("lost", "duplicates", "reordered", "corrupted"))
        print(f"| {runtime} | {in_flight} | {rate:,.0f} | {cpu:.2f} | {faults} |")


if __name__ == "__main__":
    main()
