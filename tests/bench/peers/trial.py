"""One run of a router between a client and a sink."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from polku.bench.child import Child
from tests.bench.peers.records import Requests
from tests.bench.peers.routers import Router, Running, other_cores, running

_CONNECTIONS = 8
_SETTLED_SECONDS = 10.0  # without anything new at the sink, although something is missing
_LOOK_SECONDS = 0.1
_WARM = 20  # requests before the run
_WARM_FIRST = 9_000_000_000  # their numbers


class Shape(NamedTuple):
    """What is sent: `requests` of `batch` records of about `size` bytes, with `in_flight` of them unanswered."""

    batch: int
    size: int
    requests: int
    in_flight: int = 32

    def __str__(self) -> str:
        return f"{self.batch:,} of {self.size} B"


class Overload(NamedTuple):
    """How many records a second the sink takes, how many are offered, and for how many seconds."""

    taken: float
    offered: float
    seconds: float


class Measured(NamedTuple):
    """What came of a run.

    Records delivered a second; microseconds of CPU of the router for a record; its private bytes at the start and at
    most; records acknowledged and never delivered, and delivered twice; refusals that the client tried again; the 99th
    percentile of the seconds until a request was acknowledged.
    """

    delivered: float
    cpu: float
    rest: int
    most: int
    lost: int
    doubled: int
    refused: int
    p99: float


def measure(router: Router, shape: Shape, overload: Overload | None = None) -> Measured:
    """Run one router under one load."""
    kept = Requests(shape.batch, shape.size).kept_each
    with (
        Child(
            "sink", "tests.bench.peers.sink", _with_cores(router, {"rate": overload.taken if overload else 0})
        ) as sink,
        running(router, sink.read()["port"]) as one,
    ):
        order = _with_cores(router, _order(one, shape))
        _send(order | {"requests": _WARM, "in_flight": 4, "first": _WARM_FIRST}, _nothing)
        count = _settle(sink, _WARM * kept, _nothing)
        before = one.usage()
        memory = [before.memory_bytes]

        def look() -> None:
            memory.append(one.usage().memory_bytes)

        if overload:
            order |= {"requests": 0, "seconds": overload.seconds, "rate": overload.offered, "in_flight": 512}
        told = _send(order, look)
        delivered = _settle(sink, count + len(told["acked"]) * kept, look) - count
        after, result = one.usage(), sink.ask("result")
    came = {int(number): count for number, count in result["requests"].items()}
    return Measured(
        delivered=delivered / (result["last"] - told["first"]),
        cpu=(after.cpu_seconds - before.cpu_seconds) / max(1, delivered) * 1e6,
        rest=before.memory_bytes,
        most=max(memory),
        lost=sum(kept - came.get(number, 0) for number in told["acked"]),
        doubled=result["doubled"],
        refused=sum(told["refused"].values()),
        p99=told["p99"] or 0.0,
    )


def _with_cores(router: Router, order: dict[str, Any]) -> dict[str, Any]:
    return order | {"cores": sorted(other_cores(router.cores))}


def _order(one: Running, shape: Shape) -> dict[str, Any]:
    return {
        "target": f"127.0.0.1:{one.port}",
        **{"batch": shape.batch, "size": shape.size, "requests": shape.requests, "first": 0},
        **{"in_flight": shape.in_flight, "connections": _CONNECTIONS, "seconds": 0, "rate": 0},
    }


def _send(order: dict[str, Any], look: Callable[[], None]) -> dict[str, Any]:
    with Child("load", "tests.bench.peers.load", order) as load:
        load.read()
        load.write("go")
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(over, look))
        watch.start()
        try:
            return load.read()
        finally:
            over.set()
            watch.join()


def _watch(over: threading.Event, look: Callable[[], None]) -> None:
    while not over.wait(_LOOK_SECONDS):
        look()


def _settle(sink: Child, expected: int, look: Callable[[], None]) -> int:
    """Wait for the expected number of records, or until no more come; return the number that has come."""
    count, seen, since = 0, -1, time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS:
        count = int(sink.ask("count")["count"])
        if count >= expected:
            break
        if count != seen:
            seen, since = count, time.monotonic()
        look()
        time.sleep(_LOOK_SECONDS)
    return count


def _nothing() -> None:
    """Look at nothing."""
