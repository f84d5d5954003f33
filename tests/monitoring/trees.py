"""Statistics of pipelines that do not run: any number of lanes and emitters, in any state."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from polku import Batch, Deduplicator, Filter, Hub
from polku.health import Health
from polku.histogram import Histogram
from polku.monitoring.address import Admin
from polku.monitoring.admin import AdminServer
from polku.monitoring.picture import describe
from polku.monitoring.stage_statistics import ErrorStatistics, LinkStatistics, StageStatistics
from polku.monitoring.statistics import (
    BufferStatistics,
    DeadLetterCount,
    EmitterStatistics,
    IngestStatistics,
    LaneStatistics,
    OutletStatistics,
    PartHealth,
    PipelineStatistics,
    ProcessStatistics,
    WayStatistics,
)
from polku.tap.redaction import Redaction

CAPACITY = 10_000


class Sink:
    """A destination by a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def emit(self, batch: Batch) -> None:
        """Take everything."""


def is_order(event: object) -> bool:
    return True


def some_tree(
    *,
    name: str = "shop",
    lanes: int = 1,
    emitters: Sequence[str] = ("audit", "partner"),
    events: int = 0,
    waiting: Mapping[str, int] | None = None,
    unhealthy: Mapping[str, PartHealth] | None = None,
    errors: Sequence[str] = (),
    restarts: int = 0,
    shared: bool = False,
    partitions: int = 1,
) -> PipelineStatistics:
    """Return the tree of a pipeline in which `events` have come in, of which so many wait for each emitter.

    With `shared` lanes have a stage together, of that many `partitions`.
    """
    hub = Hub(name=name).middleware(Filter(is_order))
    if shared:
        hub = hub.middleware(Deduplicator(), partitions=partitions)
    for emitter in emitters:
        hub = hub.emitter(Sink(emitter))
    plan = describe((hub.lanes(lanes) if lanes > 1 else hub).plan("ray"))
    names = [f"lane-{number}" for number in range(1, lanes + 1)] if lanes > 1 else [""]
    stage = _stage(events)
    divided = [f"stage-2/partition-{number}" for number in range(1, partitions + 1)] if partitions > 1 else ["stage-2"]
    parts: dict[str, PartHealth] = {}
    processes: dict[str, ProcessStatistics] = {}
    for lane in names:
        begin = f"{lane}/" if lane else ""
        for part in plan.parts:
            if part.kind not in ("ingestor", "source") and not part.shared:
                parts[begin + part.name] = PartHealth(healthy=True, message="ok")
                processes[begin + part.name] = ProcessStatistics(
                    pid=4_000 + len(processes), cpu_seconds=events / 1e4, memory_bytes=41_000_000, restarts=restarts
                )
    return PipelineStatistics(
        pipeline=name,
        runtime="ray",
        version="1.2.3",
        time_ns=time.time_ns(),
        uptime_seconds=754.0,
        healthy=not unhealthy,
        ready=True,
        not_ready="",
        plan=plan,
        parts=parts | dict(unhealthy or {}),
        lanes=tuple(_lane(lane, emitters, events, waiting or {}, errors, stage) for lane in names),
        shared=dict.fromkeys(divided, stage) if shared else {},
        dead_letters=tuple(
            DeadLetterCount(lane=lane, part="buffer", emitter=emitter, code="UNDELIVERED", total=3, forgotten=0)
            for lane in names
            for emitter in emitters
            if errors
        ),
        processes=processes,
    )


def _lane(
    lane: str,
    emitters: Sequence[str],
    events: int,
    waiting: Mapping[str, int],
    errors: Sequence[str],
    stage: StageStatistics,
) -> LaneStatistics:
    times = Histogram()
    times.record(0.004, events)
    seen = tuple(ErrorStatistics(text=text, count=2, time_ns=time.time_ns()) for text in errors)
    return LaneStatistics(
        name=lane,
        node="10.0.0.7" if lane else "",
        ingest=IngestStatistics(
            messages=events // 100,
            received=events,
            received_bytes=300 * events,
            accepted=events,
            refused={"BUFFER_FULL": 7} if errors else {},
            open_messages=0,
            open_bytes=0,
            draining=False,
            fault="",
            ack_seconds=times.distribution(),
            batch_events=times.distribution(),
            unauthenticated=0,
            slowed=0,
            certificate_ends_at=0.0,
            token_ends_at=0.0,
            security_is_stale=False,
            ways={"stream": WayStatistics(messages=events // 100, events=events, refused=0)} if events else {},
            connections={"grpc": 2},
            link=LinkStatistics(events=events // 10, oldest_age_seconds=0.2, sent=events, resent=0),
            sources={},
            plugins={},
        ),
        stages={"stage-1": stage},
        buffer=BufferStatistics(
            events=max(waiting.values(), default=0),
            bytes=0,
            capacity=CAPACITY,
            received=events,
            received_bytes=300 * events,
            duplicates=0,
            overflowed=0,
            unroutable=0,
            fault="",
            journal=None,
            outlets={name: _outlet(events, waiting.get(name, 0)) for name in emitters},
        ),
        emitters={
            name: EmitterStatistics(
                type="Sink",
                confirmed=events,
                failed=0,
                calls=events // 100,
                in_flight=0,
                attempts=events // 100,
                retries=0,
                circuit="open" if waiting.get(name) else "closed",
                alarm="",
                work_seconds=1.0,
                utilization=0.1,
                next_attempt_seconds=12.0 if waiting.get(name) else 0.0,
                errors=seen,
            )
            for name in emitters
        },
    )


def _stage(events: int) -> StageStatistics:
    return StageStatistics(
        type="Filter",
        batches=events // 100,
        received=events,
        sent=events,
        discarded={},
        dead=0,
        held=0,
        busy_with="",
        busy_seconds=0.0,
        work_seconds=1.0,
        utilization=0.1,
        wait_seconds=Histogram().distribution(),
        fault="",
        errors=(),
        link=None,
    )


def _outlet(events: int, waiting: int) -> OutletStatistics:
    times = Histogram()
    times.record(0.03, events)
    return OutletStatistics(
        confirmed=0 if waiting else events,
        sent_bytes=300 * events,
        dead=0,
        dropped=0,
        unreadable=0,
        waiting=waiting,
        waiting_bytes=300 * waiting,
        in_flight=0,
        oldest_age_seconds=waiting / 100,
        no_progress_seconds=waiting / 100,
        full=waiting >= CAPACITY,
        required=True,
        fault="",
        wait_seconds=times.distribution(),
        delivery_age_seconds=times.distribution(),
    )


class Shown:
    """The tree that an admin address shows now: set `tree`; its time is that of the look."""

    def __init__(self, tree: PipelineStatistics) -> None:
        self.tree = tree

    async def statistics(self) -> PipelineStatistics:
        return replace(self.tree, time_ns=time.time_ns())

    async def health(self) -> Health:
        return Health(True, {}, 0)


@contextmanager
def admin_address(shown: Shown, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Yield the address at which a real admin server shows a tree."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def there(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    no_events: Any = None  # nobody looks at them here
    server = AdminServer(
        Admin(address),
        shown.statistics,
        shown.health,
        lambda: 0.0,
        {"grpc": "127.0.0.1:50051"},
        events=no_events,
        redaction=Redaction(),
        key="key",
    )
    try:
        yield there(server.start())
    finally:
        there(server.close())
        there(_settle())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _settle() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=5)
