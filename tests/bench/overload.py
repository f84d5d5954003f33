"""A client that offers four times what a pipeline can take: what gets through, what memory does, and how it recovers.

    python -m tests.bench.overload --runtime inline --runtime ray --seconds 10

For each door the best rate is found first, then four times as much is offered in an open loop, then a tenth of it.
For streams flow control holds the client back; unary calls are refused with RESOURCE_EXHAUSTED and a hint when to come
back, which a second, ordinary client asks for meanwhile. Memory is private memory above that before the overload; its
bound is what the pipeline may hold: the bytes under way (`Limits.open_bytes`) and the buffer's.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from polku.bench import Load, Subject, Workload
from polku.bench.ledger import Ledger
from polku.bench.trial import Session, session
from polku.event.v1.event_pb2 import Event
from polku.histogram import Histogram
from polku.v1.gateway_pb2 import Ack, IngestEvent

FILE = str(Path(__file__).with_name("pipelines.py"))
OPEN_BYTES, BUFFER_BYTES = 8 * 1024 * 1024, 8 * 1024 * 1024
WORKLOADS = {"stream": Workload(batch=1_000), "unary": Workload(batch=1, unary=True, size=2_000)}


class Prober:
    """Call SendEvent now and then, as an ordinary client, and keep what it is told."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.hints: list[str] = []
        self._stop = threading.Event()

    @contextmanager
    def asking(self, address: str) -> Iterator[None]:
        thread = threading.Thread(target=self._run, args=(address,))
        thread.start()
        yield
        self._stop.set()
        thread.join()

    def _run(self, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(
                "/polku.v1.Gateway/SendEvent",
                request_serializer=IngestEvent.SerializeToString,
                response_deserializer=Ack.FromString,
            )
            while not self._stop.wait(0.1):
                try:
                    call(IngestEvent(source="probe", event=Event(event_type="user.probe")), timeout=10)
                    self.told["OK"] += 1
                except grpc.RpcError as error:
                    failed: Any = error
                    self.told[failed.code().name] += 1
                    self.hints += [f"{k}={v}" for k, v in failed.trailing_metadata() or () if "retry" in k]


def parts_bytes(usage: dict[str, Any]) -> int:
    return sum(memory for name, (_, memory) in usage.items() if not name.startswith("others"))


def p99_ms(sent: dict[str, Any]) -> float:
    return 1e3 * (Histogram.from_json(sent["accepted"]).percentile(99) or 0.0)


def rate(sent: dict[str, Any]) -> float:
    return float(sent["acked"] / max(1e-9, sent["last"] - sent["first"]))


def once(runtime: str, door: str, seconds: float) -> dict[str, Any]:
    """Overload one pipeline once."""
    subject = Subject(file=f"{FILE}:bounded", runtime=runtime)
    workload = WORKLOADS[door]
    load = Load(workload=workload, seconds=seconds)
    prober = Prober()
    with session(subject, load) as running:
        _, first = _watched(running, load)  # looking on costs something, so it is done in both
        sends = [first]
        best = rate(first)
        before = parts_bytes(running.usage())
        with prober.asking(running.address):
            most, overload = _watched(running, Load(workload=workload, seconds=seconds, rate=4 * best))
        sends.append(overload)
        sends.append(running.send(Load(workload=workload, seconds=seconds / 2, rate=best / 10)))
        _, got = running.stop()
    acknowledged, delivered = Ledger(workload.batch), Ledger(workload.batch)
    acknowledged.merge(Ledger.from_json(sent["ledger"]) for sent in sends)
    delivered.merge(Ledger.from_json(one["ledger"]) for one in got.values())
    return {
        "best": best,
        "through": rate(overload) / best,
        "refused": Counter(overload["refusals"]),
        "grown": (most - before) / (OPEN_BYTES + BUFFER_BYTES),
        "p99 overloaded": p99_ms(overload),
        "p99 after": p99_ms(sends[2]),
        "lost": delivered.missing(acknowledged),
        "told": prober.told,
        "hints": set(prober.hints),
    }


def _watched(running: Session, load: Load) -> tuple[int, dict[str, Any]]:
    """Send a load; return the most private memory seen meanwhile, and what became of the load."""
    seen = [0]
    sent = running.send(load, lambda acked: seen.append(parts_bytes(running.usage())))
    return max(seen), sent


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", choices=["inline", "ray"])
    parser.add_argument("--door", action="append", choices=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    head = ("runtime, door", "best, events/s", "through at 4 ×", "refused", "memory grown, of the bound")
    print("|", " | ".join((*head, "p99 overloaded", "p99 after", "lost", "a client was told")), "|")
    print("|---|---|---|---|---|---|---|---|---|")
    for runtime in options.runtime or ["inline", "ray"]:
        for door in options.door or list(WORKLOADS):
            rounds = [once(runtime, door, options.seconds) for _ in range(options.rounds)]
            median = {
                name: statistics.median(found[name] for found in rounds)
                for name in ("best", "through", "grown", "p99 overloaded", "p99 after")
            }
            told: Counter[str] = sum((found["told"] for found in rounds), Counter())
            refused = _listed(sum((found["refused"] for found in rounds), Counter()))
            hints = ", ".join(sorted(set().union(*(found["hints"] for found in rounds)))) or "no hint"
            print(
                f"| {runtime}, {door} | {median['best']:,.0f} | {median['through']:.0%} (wanted: ≥ 90 %) "
                f"| {refused} | {median['grown']:.0%} (≤ 120 %) "
                f"| {median['p99 overloaded']:.0f} ms | {median['p99 after']:.1f} ms "
                f"| {sum(found['lost'] for found in rounds)} "
                f"| {_listed(told)}; {hints} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
