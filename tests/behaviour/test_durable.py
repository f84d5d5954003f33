"""A durable pipeline, on both runtimes: stopped, started again, refused, and mended."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from polku import BufferStrategy, Code, Event, Hub, WebhookEmitter, new_event
from polku.errors import JournalLockedError, JournalPathError
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.support.recorder import Recorder


def numbered(start: int, end: int) -> list[Event]:
    return [new_event("x", source="test", id=f"{n:05d}") for n in range(start, end)]


def ids(recorder: Recorder) -> list[str]:
    return [event.id for event in recorder.events()]


def test_stopping_and_starting_again_goes_on_at_the_cursor_of_each_emitter(start: Start, tmp_path: Path) -> None:
    quick, slow = Recorder(tmp_path / "quick", "quick"), Recorder(tmp_path / "slow", "slow")
    hub = Hub().buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db")).emitter(quick).emitter(slow)
    slow.hold()
    first = start(hub)
    for begin in range(0, 1_000, 100):
        assert first.sender().send(numbered(begin, begin + 100)).ok
    quick.wait_for(1_000)
    report = first.stop(1.0)
    assert not report.complete
    assert (report.emitters["quick"].delivered, report.emitters["quick"].journaled) == (1_000, 0)
    assert (report.emitters["slow"].delivered, report.emitters["slow"].left) == (0, 0)
    assert report.emitters["slow"].journaled == 1_000
    assert "1000 journaled" in str(report)
    slow.release()
    second = start(hub)
    assert second.sender().send(numbered(1_000, 1_100)).ok
    slow.wait_for(1_100)
    report = second.stop(20)
    assert report.complete
    assert report.emitters["slow"].delivered >= 1_100 - 100
    expected = [event.id for event in numbered(0, 1_100)]
    assert ids(quick) == expected
    # What was under way to the slow one when it was stopped may come twice; nothing is out of order.
    assert list(dict.fromkeys(ids(slow))) == expected


class Endpoint(ThreadingHTTPServer):
    """Take one event a request; answer the first one once `gathered`, and the 21st and later ones once `answering`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EndpointHandler)
        self.seen: list[str] = []
        self.gathered, self.answering = threading.Event(), threading.Event()


class EndpointHandler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        (event,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(event["id"])
        self.server.gathered.wait(30)
        if len(self.server.seen) > 20:
            self.server.answering.wait(30)
        with contextlib.suppress(OSError):  # the emitter may be gone
            self.send_response(204)
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.gathered.set()
        server.answering.set()
        server.shutdown()
        thread.join()


def test_what_is_confirmed_of_a_batch_when_the_time_of_a_drain_is_up_is_not_sent_again(
    start: Start, tmp_path: Path, endpoint: Endpoint
) -> None:
    webhook = WebhookEmitter(f"http://127.0.0.1:{endpoint.server_port}/", max_events=1)
    hub = Hub().buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db")).emitter(webhook)
    first = start(hub)
    for number in range(40):
        assert first.sender().send(numbered(number, number + 1)).ok
    endpoint.gathered.set()  # all but the first wait now, and go as one batch
    while len(endpoint.seen) <= 20:
        time.sleep(0.01)
    report = first.stop(0.5)
    assert not report.complete
    assert report.emitters["webhook"][:2] == (20, 0)
    assert report.emitters["webhook"].journaled == 20
    endpoint.answering.set()
    second = start(hub)
    assert second.stop(20).complete
    assert list(dict.fromkeys(endpoint.seen)) == [event.id for event in numbered(0, 40)]
    twice = {event_id for event_id in endpoint.seen if endpoint.seen.count(event_id) > 1}
    assert twice <= {"00020"}  # it was taken, and not confirmed


@on_ray_when_slow
def test_a_journal_that_another_pipeline_has_is_refused_by_pid(start: Start, tmp_path: Path, runtime: str) -> None:
    hub = Hub().buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db")).emitter(Recorder(tmp_path / "out"))
    first = start(hub)
    with pytest.raises(JournalLockedError) as caught:
        start(hub)
    assert caught.value.path == str(tmp_path / "journal.db")
    assert caught.value.pid.isdigit()
    assert (caught.value.pid == str(os.getpid())) == (runtime == "inline")
    assert first.sender().send(new_event("x", source="test")).ok


@on_ray_when_slow
def test_a_path_that_cannot_be_used_is_refused_clearly_until_it_can(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal.db"
    blocker = Path(f"{path}.lock")
    blocker.mkdir(parents=True)  # a folder where a file should be
    recorder = Recorder(tmp_path / "out")
    hub = Hub().buffer_strategy(BufferStrategy.durable(path)).emitter(recorder)
    pipeline = start(hub, grpc_addr="127.0.0.1:0")
    receipt = pipeline.sender().send(numbered(0, 3))
    assert {refusal.code for refusal in receipt.refused} == {Code.BUFFER_FULL}
    assert len(receipt.refused) == 3
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.SendEvent(IngestEvent(source="test", event=Event(id="one", event_type="x")))
        (ack,) = stub.StreamEvents(iter([IngestBatch(source="test", events=EventPayload(events=numbered(0, 2)))]))
    assert [(error.event_id, error.code) for error in ack.errors] == [
        ("00000", "BUFFER_FULL"),
        ("00001", "BUFFER_FULL"),
    ]
    assert list(ack.event_ids) == []
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(path) in (refused.value.details() or "")
    deadline = time.monotonic() + 30
    while (health := pipeline.health()).healthy:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert str(path) in health.components["buffer"][1]
    blocker.rmdir()
    while not pipeline.health().healthy:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert pipeline.sender().send(numbered(3, 5)).ok
    assert [event.id for event in recorder.wait_for(2)] == ["00003", "00004"]


@on_ray_when_slow
def test_a_path_that_can_never_be_a_journal_stops_the_start(start: Start, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not yours")
    hub = Hub().buffer_strategy(BufferStrategy.durable(notes)).emitter(Recorder(tmp_path / "out"))
    with pytest.raises(JournalPathError, match="is not a journal, and was left as it is"):
        start(hub)
    assert notes.read_text() == "not yours"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["notes.txt"]


@on_ray_when_slow
def test_a_renamed_emitter_gets_what_waits_for_its_former_name(start: Start, tmp_path: Path) -> None:
    def hub() -> Hub:
        return Hub().buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db"))

    shut = Recorder(tmp_path / "never")
    shut.hold()
    closed = start(hub().emitter(shut, name="old"))
    assert closed.sender().send(numbered(0, 3)).ok
    closed.stop(0.1)
    stranded = start(hub().emitter(Recorder(tmp_path / "wrong"), name="new"))
    well, text = stranded.health().components["emitter:old"]
    assert (well, "3 events wait for it in the journal" in text) == (False, True)
    stranded.stop(5)
    recorder = Recorder(tmp_path / "out")
    pipeline = start(hub().emitter(recorder, name="new", formerly="old"))
    assert [event.id for event in recorder.wait_for(3)] == ["00000", "00001", "00002"]
    assert "emitter:old" not in pipeline.health().components
