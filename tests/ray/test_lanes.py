"""Lanes come and go on Ray while clients of every kind send: none is refused, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import BufferStrategy, Deduplicator, Hub, Pipeline, new_event
from polku.event.v1.event_pb2 import Event
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")
PAUSE = 0.02  # seconds between the events of a client: some are in flight at any time, and lanes have room to start
_OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel


class Clients:
    """Clients that send events until the end: by gRPC calls, by streams that open again, and as senders of Ray."""

    def __init__(self, pipeline: Pipeline, name: str) -> None:
        self.acked: set[str] = set()
        self.errors: list[str] = []
        self._pipeline = pipeline
        self._name = name
        self._end = threading.Event()
        ways = [self._call, self._call, self._call, self._stream, self._stream, self._send]
        self._counts = [0] * len(ways)
        self._threads = [threading.Thread(target=self._run, args=(number, way)) for number, way in enumerate(ways)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()

    def _run(self, client: int, way: Callable[[int, Iterator[Event]], None]) -> None:
        try:
            way(client, self._events(client, f"{self._name}-{way.__name__}-{client}"))
        except BaseException as error:
            self.errors.append(f"{way.__name__}: {error!r}")

    def _events(self, client: int, source: str) -> Iterator[Event]:
        """Yield events until the end, each once the one before is acknowledged."""
        for number in itertools.count():
            if self._end.is_set():
                return
            yield new_event("t", id=f"{source}-{number:06d}", source=source)
            self.acked.add(f"{source}-{number:06d}")
            self._counts[client] += 1
            time.sleep(PAUSE)

    def _call(self, client: int, events: Iterator[Event]) -> None:
        with grpc.insecure_channel(str(self._pipeline.address), _OWN) as channel:
            for event in events:
                answer = GatewayStub(channel).SendEvent(IngestEvent(event=event), timeout=60)
                assert list(answer.event_ids) == [event.id], answer

    def _stream(self, client: int, events: Iterator[Event]) -> None:
        """Send over a stream; where it ends, send what has no answer over the next one."""
        with grpc.insecure_channel(str(self._pipeline.address), _OWN) as channel:
            event: Event | None = next(events, None)
            while event is not None:
                batches: queue.SimpleQueue[IngestBatch | None] = queue.SimpleQueue()
                acks: Any = GatewayStub(channel).StreamEvents(iter(batches.get, None))
                try:
                    while event is not None:
                        batches.put(IngestBatch(source=event.source, events=EventPayload(events=[event])))
                        assert list(next(acks).event_ids) == [event.id]
                        event = next(events, None)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                finally:
                    batches.put(None)

    def _send(self, client: int, events: Iterator[Event]) -> None:
        sender = self._pipeline.sender()
        for event in events:
            receipt = sender.send(event)
            assert receipt.ok, receipt

    def go_on(self, events: int = 30) -> None:
        """Return when each client has that many answers more."""
        wanted = [count + events for count in self._counts]
        until(lambda: self.errors or all(count >= want for count, want in zip(self._counts, wanted, strict=True)))
        assert not self.errors

    def end(self) -> set[str]:
        """Return the ids that were acknowledged."""
        self._end.set()
        for thread in self._threads:
            thread.join(60)
        assert not self.errors
        return self.acked


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # to look asks every actor


def received(pipeline: Pipeline) -> dict[str, int]:
    """Return how many events each lane has taken in."""
    found: dict[str, int] = {}
    for lane in pipeline.statistics().lanes:
        found[lane.name] = 0 if lane.ingest is None else lane.ingest.received
    return found


def connected(pipeline: Pipeline) -> bool:
    """Send an event over a connection of its own; return whether it was accepted."""
    with grpc.insecure_channel(str(pipeline.address), _OWN) as channel:
        answer = GatewayStub(channel).SendEvent(IngestEvent(event=new_event("t", source="other")), timeout=60)
    return bool(answer.event_ids)


def check(sent: Iterable[str], ids: list[str], *, once: Callable[[str], bool]) -> None:
    counts = Counter(ids)
    assert not {each for each in sent if each not in counts}
    assert not {each: count for each, count in counts.items() if count > 1 and once(each)}


# In `make test` lanes come and go in test_levelling.py, chained and among the same clients.
@pytest.mark.slow
@pytest.mark.parametrize("chained", [False, True])
def test_lanes_come_and_go_while_clients_send(chained: bool, tmp_path: Path) -> None:
    def version(lanes: int) -> Hub:
        hub = Hub(runtime="ray").lanes(lanes).emitter(Recorder(tmp_path / "out"), name="out")
        if chained:
            return hub.chain().buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))
        return hub.middleware(Deduplicator(ttl=600))

    with version(1).start(grpc_addr="127.0.0.1:0") as pipeline, Clients(pipeline, "first") as first:
        first.go_on()
        changed = pipeline.update_plan(version(3).plan("ray"), timeout=30)
        assert "changed   lanes: 3 (was 1)" in str(changed.difference)
        until(lambda: connected(pipeline) and all(received(pipeline).get(f"lane-{n}") for n in (1, 2, 3)))
        with Clients(pipeline, "second") as second:
            first.go_on()
            second.go_on()
            until(lambda: pipeline.health().healthy)
            changed = asyncio.run(pipeline.scale(1, timeout=30))
            assert "lanes: 1 (was 3); those that are gone deliver" in str(changed.difference)
            until(lambda: list(received(pipeline)) == ["lane-1"])
            for clients in (first, second):
                clients.go_on()
            sent = first.end() | second.end()
        until(lambda: pipeline.health().healthy)
        report = pipeline.stop()
    assert not report.loss
    ids = [event.id for event in Recorder(tmp_path / "out").events()]
    check(sent, ids, once=lambda each: not chained or "_stream" not in each)
    assert report.emitters["out"].delivered >= len(sent)
