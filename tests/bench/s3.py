"""Compare the S3Emitter with bare obstore: `python -m tests.bench.s3 [--events 200000] [--rounds 3]`.

Events of about 130 bytes, in batches of 1,000, go through what stands at the end of a pipeline (collecting, resilience,
S3Emitter) into NDJSON objects of 50,000 events, in a folder and in moto's server. Beside it, in the same rounds and in
turns: a loop that decodes the same batches, encodes them with the same function and puts objects of the same size with
obstore, and one that puts ready bytes. CPU is this process's; the server has its own. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import obstore
from obstore.store import LocalStore, S3Store

from polku import Batch, ObjectFormat, S3Emitter, new_event
from polku.batch.batch import Header
from polku.batch.receipt import outcome_of
from polku.emit.json_form import event_fields
from polku.plan import OutletPlan
from polku.runtime.assembly import build_delivery
from tests.emit.s3_server import S3Server

OBJECT = 50_000
BATCH = 1_000


class Workload:
    """The same batches and the same objects for everybody."""

    def __init__(self, events: int) -> None:
        made = [
            new_event(
                "user.login", source="bench", id=f"{n:026d}", metadata={"user": f"user-{n % 100}"}, payload=b"." * 40
            )
            for n in range(events)
        ]
        batches = (Batch.from_events(made[start : start + BATCH]) for start in range(0, events, BATCH))
        self.payloads = [batch.payload for batch in batches]
        lines = [msgspec.json.encode(event_fields(event)) + b"\n" for event in made]
        self.objects = [b"".join(lines[start : start + OBJECT]) for start in range(0, events, OBJECT)]
        self.events = events

    def batches(self) -> list[Batch]:
        return [Batch.from_wire(Header(BATCH, None, None, 0, ""), payload) for payload in self.payloads]


async def emitter(work: Workload, url: str, options: dict[str, str], format: ObjectFormat) -> None:
    config = S3Emitter(url, options=options, key="{batch}", max_events=OBJECT, max_age=3600, format=format)
    delivery = build_delivery(OutletPlan("s3", config))
    await delivery.start()
    answers = [await delivery.push(batch) for batch in work.batches()]
    await delivery.flush(True)
    for answer in answers:
        receipt = await outcome_of(answer)
        assert not receipt.refused
    await delivery.close()


async def encoding(work: Workload, store: LocalStore | S3Store) -> None:
    lines: list[bytes] = []
    for number, batch in enumerate(work.batches(), 1):
        lines += [msgspec.json.encode(event_fields(event)) + b"\n" for event in batch]
        if len(lines) >= OBJECT or number == len(work.payloads):
            await obstore.put_async(store, f"bare-{number}", b"".join(lines), chunk_size=8 << 20)
            lines = []


async def ready(work: Workload, store: LocalStore | S3Store) -> None:
    for number, content in enumerate(work.objects):
        await obstore.put_async(store, f"ready-{number}", content, chunk_size=8 << 20)


async def measure(run: Callable[[], Awaitable[None]], events: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    await run()
    return events / (time.perf_counter() - began), (time.process_time() - cpu) / events * 1e6


async def compare(work: Workload, rounds: int, server: S3Server, folder: Path) -> None:
    remote = S3Store("events", config=server.options, client_options={"allow_http": True, "timeout": timedelta(60)})  # type: ignore[arg-type]
    places: dict[str, tuple[str, dict[str, str], LocalStore | S3Store]] = {
        "folder": (folder.as_uri(), {}, LocalStore(folder)),
        "moto": ("s3://events", server.options, remote),
    }
    for place, (url, options, store) in places.items():
        rows: dict[str, Callable[[], Awaitable[None]]] = {
            "S3Emitter, ndjson": lambda url=url, options=options: emitter(work, url, options, ObjectFormat.NDJSON),  # type: ignore[misc]
            "S3Emitter, protobuf": lambda url=url, options=options: emitter(work, url, options, ObjectFormat.PROTOBUF),  # type: ignore[misc]
            "bare obstore, decoding and encoding": lambda store=store: encoding(work, store),  # type: ignore[misc]
            "bare obstore, ready bytes": lambda store=store: ready(work, store),  # type: ignore[misc]
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, run in rows.items():
                found[name].append(await measure(run, work.events))
        for name, figures in found.items():
            rate, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"{place:8} {name:38} {rate:10,.0f} events/s  {cpu:6.2f} µs CPU/event")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    server = S3Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(compare(Workload(options.events), options.rounds, server, Path(folder)))
    finally:
        server.kill()


if __name__ == "__main__":
    main()
