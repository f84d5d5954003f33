"""The tree of statistics, with the inline runtime; `test_both_runtimes` compares them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from polku import (
    Batch,
    Breaker,
    BufferStrategy,
    Failure,
    Filter,
    Hub,
    Pipeline,
    Resilience,
    Retry,
    RetryableError,
    new_event,
)
from polku.monitoring.statistics import OutletStatistics
from polku.v1.gateway_pb2 import IngestBatch, IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


class Destination:
    """Take events, or hold them while it is `away`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False

    def emit(self, batch: Batch) -> list[Failure]:
        if self.away:
            raise RetryableError("away")
        return [Failure(event.id, "no", retryable=False) for event in batch if event.event_type == "poison"]


def test_every_part_is_in_the_tree_with_what_it_counted() -> None:
    partner = Destination("partner")
    hub = Hub(runtime="inline").middleware(Filter(lambda event: event.event_type != "noise")).emitter(partner)
    with hub.start() as pipeline:
        sender = pipeline.sender()
        types = ["order", "noise", "poison", "order"]
        sender.send([new_event(type, source="shop") for type in types])
        wait_for(lambda: pipeline.statistics().lanes[0].buffer.outlets["partner"].confirmed == 2)  # type: ignore[union-attr]
        tree = pipeline.statistics()
    (lane,) = tree.lanes
    assert (tree.pipeline, tree.runtime, tree.healthy, tree.ready) == (hub.plan("inline").name, "inline", True, True)
    ingest, buffer, emitter = lane.ingest, lane.buffer, lane.emitters["partner"]
    assert ingest is not None
    assert buffer is not None
    assert (ingest.received, ingest.accepted, ingest.messages) == (4, 4, 1)
    assert (ingest.ack_seconds.count, ingest.batch_events.sum) == (4, 4)
    ((_, stage),) = lane.stages.items()
    assert (stage.type, stage.received, stage.sent, stage.discarded) == ("Filter", 4, 3, {"filtered": 1})
    assert (buffer.received, buffer.journal, buffer.capacity) == (3, None, 10_000)
    outlet = buffer.outlets["partner"]
    assert (outlet.confirmed, outlet.dead, outlet.waiting, outlet.delivery_age_seconds.count) == (2, 1, 0, 3)
    assert (emitter.type, emitter.attempts, emitter.circuit) == ("Destination", 1, "closed")
    assert [(one.emitter, one.code, one.total) for one in tree.dead_letters] == [("partner", "UNDELIVERED", 1)]
    assert tree.processes["pipeline"].memory_bytes > 0
    assert json.loads(json.dumps(tree.to_json()))["lanes"][0]["ingest"]["ack_seconds"]["count"] == 4


def test_the_tree_is_frozen() -> None:
    with Hub(runtime="inline").emitter(Destination("partner")).start() as pipeline:
        tree = pipeline.statistics()
    with pytest.raises(AttributeError):
        tree.healthy = False  # type: ignore[misc]


async def test_statistics_are_there_for_async_programs() -> None:
    async with Hub(runtime="inline").emitter(Destination("partner")).start() as pipeline:
        tree = await pipeline.statistics_async()
    assert tree.lanes[0].emitters["partner"].confirmed == 0


def test_refusals_are_counted_by_code() -> None:
    with Hub(runtime="inline").emitter(Destination("partner")).start() as pipeline:
        (error,) = pipeline.sender().send_raw(b"{", source="json").refused
        ingest = pipeline.statistics().lanes[0].ingest
    assert ingest is not None
    assert ingest.refused == {error.code: 1}


def test_what_comes_in_is_counted_by_the_way_that_it_comes() -> None:
    hub = Hub(runtime="inline").emitter(Destination("partner"))
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send([new_event("order", source="shop"), new_event("order", source="shop")])
        pipeline.sender().send_raw(b"{", source="json")
        with socket.create_connection(split(pipeline.http_address)) as http:
            body = b'[{"event_type": "order"}, {"event_type": 7}]'
            head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
            http.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            assert http.recv(65_536).startswith(b"HTTP/1.1 200")
            with grpc.insecure_channel(str(pipeline.address)) as channel:
                stub = GatewayStub(channel)
                stub.SendEvent(IngestEvent(source="shop", event=new_event("order", source="shop")))
                assert len(list(stub.StreamEvents(iter([IngestBatch(source="shop")])))) == 1
                ingest = pipeline.statistics().lanes[0].ingest
    assert ingest is not None
    counts = {way: (one.messages, one.events, one.refused) for way, one in ingest.ways.items()}
    assert counts == {"sender": (2, 2, 1), "http": (1, 1, 1), "call": (1, 1, 0), "stream": (1, 0, 1)}
    assert ingest.connections == {"grpc": 1, "http": 1}


def split(address: str | None) -> tuple[str, int]:
    host, _, port = str(address).rpartition(":")
    return host, int(port)


def down() -> tuple[Destination, Resilience]:
    partner = Destination("partner")
    partner.away = True
    return partner, Resilience(partner, retry=Retry(first=0.01, limit=0.02), breaker=Breaker(open_for=0.02))


def outlet(pipeline: Pipeline, name: str = "partner") -> OutletStatistics:
    buffer = pipeline.statistics().lanes[0].buffer
    assert buffer is not None
    return buffer.outlets[name]


def test_what_waits_for_a_destination_has_an_age_and_makes_no_progress() -> None:
    partner, emitter = down()
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        assert (outlet(pipeline).oldest_age_seconds, outlet(pipeline).no_progress_seconds) == (0.0, 0.0)
        pipeline.sender().send(new_event("order", source="shop"))
        wait_for(lambda: outlet(pipeline).no_progress_seconds > 0.05)
        seen = outlet(pipeline)
        assert seen.oldest_age_seconds >= seen.no_progress_seconds > 0.0
        wait_for(lambda: pipeline.statistics().lanes[0].emitters["partner"].retries > 0)
        partner.away = False
        wait_for(lambda: outlet(pipeline).confirmed == 1)
        assert outlet(pipeline).oldest_age_seconds == 0.0
        assert (outlet(pipeline).delivery_age_seconds.percentile(50) or 0.0) > 0.05


def test_an_emitter_tells_its_latest_errors_and_when_it_tries_again() -> None:
    partner = Destination("partner")
    partner.away = True
    emitter = Resilience(
        partner, retry=Retry(first=0.01, limit=0.02), breaker=Breaker(failures=2, open_for=60.0, first=60.0)
    )
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        wait_for(lambda: pipeline.statistics().lanes[0].emitters["partner"].circuit == "open")
        seen = pipeline.statistics().lanes[0].emitters["partner"]
        part = pipeline.statistics().parts["emitter:partner"]
        next_attempt = pipeline.health().next_attempts["emitter:partner"]
        assert 20.0 < next_attempt <= part.next_attempt_seconds <= seen.next_attempt_seconds <= 60.0
        assert pipeline.health().public().next_attempts == {}
        (error,) = seen.errors
        assert (error.text, error.count) == ("away", 2)
        assert error.time_ns == pytest.approx(time.time_ns(), abs=5e9)
        part = pipeline.statistics().parts["emitter:partner"]
        assert (part.healthy, part.message, part.holds_up) == (False, "away", "")
        assert part.advice.startswith("What waits for it is kept")
        wait_for(lambda: pipeline.statistics().parts["emitter:partner"].seconds > 0.05)
        pipeline.stop(timeout=0.0)


def test_middleware_tells_its_latest_errors() -> None:
    def crash(event: object) -> None:
        raise ValueError("odd")

    with Hub(runtime="inline").middleware(crash).emitter(Destination("partner")).start() as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(3)])
        (stage,) = pipeline.statistics().lanes[0].stages.values()
        (part,) = (part for part in pipeline.statistics().plan.parts if part.kind == "stage")
    (error,) = stage.errors
    assert (error.text, error.count) == ("crash: ValueError: odd", 1)
    assert part.type == "crash"


def test_the_part_that_holds_up_others_is_named_with_why_and_what_helps() -> None:
    partner, emitter = down()
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(1)).emitter(emitter)
    with hub.start() as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        wait_for(lambda: pipeline.statistics().parts["emitter:partner"].holds_up != "")
        part = pipeline.statistics().parts["emitter:partner"]
        assert part.holds_up.startswith("its share of the buffer is full (1 event waits)")
        assert "overflow=" in part.advice
        wait_for(lambda: pipeline.statistics().parts["emitter:partner"].seconds > 0.05)
        partner.away = False
        wait_for(lambda: pipeline.statistics().parts["emitter:partner"].seconds == 0.0)
        assert pipeline.statistics().parts["emitter:partner"].holds_up == ""


def test_a_share_with_too_little_room_for_the_batch_that_waits_holds_up_others() -> None:
    partner, emitter = down()
    with Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(10)).emitter(emitter).start() as pipeline:
        sender = pipeline.sender()
        sender.send([new_event("order", source="shop") for _ in range(8)])
        waiting = threading.Thread(target=sender.send, args=([new_event("order", source="shop") for _ in range(5)],))
        waiting.start()
        wait_for(lambda: pipeline.statistics().parts["emitter:partner"].holds_up != "")
        partner.away = False
        waiting.join()


def test_what_has_no_answer_from_the_next_part_has_an_age() -> None:
    partner, emitter = down()
    hub = Hub(runtime="inline").middleware(Filter(lambda event: True)).buffer_strategy(BufferStrategy.ring(1))
    with hub.emitter(emitter).start() as pipeline:
        sender = pipeline.sender()
        sender.send(new_event("order", source="shop"))
        waiting = threading.Thread(target=sender.send, args=([new_event("order", source="shop") for _ in range(3)],))
        waiting.start()
        wait_for(lambda: _links(pipeline) == [3, 3])
        (stage,) = pipeline.statistics().lanes[0].stages.values()
        assert stage.link is not None
        age = stage.link.oldest_age_seconds
        assert 0.0 < age < 10.0
        partner.away = False
        waiting.join()
        assert _links(pipeline) == [0, 0]


def _links(pipeline: Pipeline) -> list[int]:
    """Return the events without an answer on the links from the ingest and from the stages."""
    (lane,) = pipeline.statistics().lanes
    links = [part.link for part in (lane.ingest, *lane.stages.values()) if part is not None]
    return [link.events for link in links if link is not None]


async def test_after_a_change_the_plan_and_the_types_are_the_new_ones() -> None:
    hub = Hub(runtime="inline").emitter(Destination("partner"))
    changed = Hub(runtime="inline").middleware(Filter(lambda event: True)).emitter(Destination("partner"))
    async with hub.start() as pipeline:
        assert [part.kind for part in pipeline.statistics().plan.parts if part.kind == "stage"] == []
        await pipeline.update(changed)
        tree = pipeline.statistics()
    assert [part.name for part in tree.plan.parts if part.kind == "stage"] == list(tree.lanes[0].stages)
    assert [stage.type for stage in tree.lanes[0].stages.values()] == ["Filter"]


def test_ages_are_true_after_a_restart_from_a_journal(tmp_path: Path) -> None:
    strategy = BufferStrategy.durable(str(tmp_path / "journal.db"))
    _, emitter = down()
    with Hub(runtime="inline").buffer_strategy(strategy).emitter(emitter).start() as pipeline:
        began = time.time()
        pipeline.sender().send(new_event("order", source="shop"))
        sent = time.time()
        pipeline.stop(timeout=0.0)
    time.sleep(0.2)
    _, emitter = down()
    with Hub(runtime="inline").buffer_strategy(strategy).emitter(emitter).start() as pipeline:
        least = time.time() - sent
        age = outlet(pipeline).oldest_age_seconds
        assert least - 0.1 <= age <= time.time() - began + 0.1
        wait_for(lambda: pipeline.statistics().lanes[0].emitters["partner"].attempts > 0)
        assert outlet(pipeline).oldest_age_seconds > age
        buffer = pipeline.statistics().lanes[0].buffer
        assert buffer is not None
        assert buffer.journal is not None
        assert (buffer.journal.events, buffer.journal.fault) == (1, "")
        pipeline.stop(timeout=0.0)


def test_a_full_share_of_a_destination_that_is_down_makes_the_pipeline_not_ready() -> None:
    partner, emitter = down()
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2)).emitter(emitter)
    with hub.start() as pipeline:
        sender = pipeline.sender()
        sender.send(new_event("order", source="shop"))
        assert pipeline.health().ready
        sender.send(new_event("order", source="shop"))
        wait_for(lambda: not pipeline.health().ready)
        assert "the share of emitter 'partner' is full" in pipeline.statistics().not_ready
        partner.away = False
        wait_for(lambda: pipeline.health().ready)


def test_an_emitter_without_a_destination_that_nobody_waits_for_keeps_the_pipeline_ready() -> None:
    _, emitter = down()
    strategy = BufferStrategy.ring(1, overflow="drop_oldest")
    with Hub(runtime="inline").buffer_strategy(strategy).emitter(emitter).start() as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(5)])
        wait_for(lambda: outlet(pipeline).no_progress_seconds > 1.1)
        assert pipeline.health().ready
        pipeline.stop(timeout=0.0)


def test_it_answers_while_user_code_blocks_the_event_loop() -> None:
    release = threading.Event()

    def block(batch: Batch) -> None:
        release.wait(60)

    with Hub(runtime="inline").emitter(block).start() as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        wait_for(lambda: pipeline.statistics().lanes[0].emitters["block"].in_flight == 1)
        assert outlet(pipeline, "block").waiting == 1
        release.set()
