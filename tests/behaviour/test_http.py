"""What the HTTP door does, whatever the pipeline runs on."""

from __future__ import annotations

import gzip
import json
import threading
import time
from pathlib import Path

import pytest

from polku import BufferStrategy, Event, Hub, RecordError, SettingError
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.gateway.http_client import Answer, curl, post
from tests.support.recorder import Recorder


@on_ray_when_slow
def test_http_is_shut_unless_an_address_is_given(start: Start, tmp_path: Path) -> None:
    pipeline = start(Hub().emitter(Recorder(tmp_path / "out")), grpc_addr="127.0.0.1:0")
    assert pipeline.address
    assert pipeline.http_address is None


def test_both_doors_lead_to_the_same_pipeline(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(recorder), grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0")
    assert pipeline.address != pipeline.http_address
    answer = post(str(pipeline.http_address), b'{"id": "http"}', query="?source=web&cluster=prod")
    assert (answer.status, answer.ids) == (200, ["http"])
    assert pipeline.sender().send(Event(id="sender", source="s")).ok
    first, second = recorder.wait_for(2)
    assert (first.id, first.source, first.metadata["cluster"], second.id) == ("http", "web", "prod", "sender")
    health = curl(str(pipeline.http_address), "/health")
    assert (health.status, health.body["healthy"]) == (200, True)
    assert {"ingest", "buffer", "emitter:recorder"} <= set(health.body["components"])


@on_ray_when_slow
def test_every_form_is_taken_and_a_bad_record_costs_only_itself(start: Start, tmp_path: Path) -> None:
    def parse(data: bytes) -> list[Event | RecordError]:
        return [Event(event_type="text", payload=data), RecordError("cannot be read", line=2)]

    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().ingestor(parse, source="mine").emitter(recorder), http_addr="127.0.0.1:0")
    address = str(pipeline.http_address)
    cloud = {"specversion": "1.0", "id": "ce", "source": "/s", "type": "t", "data": {"n": 1}}
    lines = b'{"id": "a"}\n{bad\n{"id": "b"}\n'
    answers = [
        post(address, lines, "application/x-ndjson"),
        post(address, gzip.compress(lines), "application/x-ndjson", "-H", "Content-Encoding: gzip"),
        post(address, json.dumps([cloud, {**cloud, "id": ""}]).encode(), "application/cloudevents-batch+json"),
        post(address, b"x", "text/plain", query="?source=mine"),
    ]
    assert [answer.status for answer in answers] == [200] * 4
    assert [answer.codes for answer in answers] == [["INVALID_RECORD"]] * 4
    assert [event.event_type for event in recorder.wait_for(6)] == ["", "", "", "", "t", "text"]
    assert post(address, b"{bad").status == 400
    assert post(address, b"x", "text/plain").status == 415


@on_ray_when_slow
def test_a_full_buffer_is_told_from_a_bad_request(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    hub = Hub().buffer_strategy(BufferStrategy.ring(2, overflow="drop_newest")).emitter(recorder)
    pipeline = start(hub, http_addr="127.0.0.1:0")
    address = str(pipeline.http_address)
    assert post(address, b'[{"id": "1"}, {"id": "2"}]').status == 200
    full = post(address, b'{"id": "3"}')
    assert (full.status, full.codes, full.headers["retry-after"]) == (429, ["BUFFER_FULL"], "1")
    assert (full.body["buffer_size"], full.body["buffer_capacity"]) == (2, 2)
    recorder.release()
    recorder.wait_for(2)


@on_ray_when_slow
def test_a_token_is_asked_for(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(recorder), http_addr="127.0.0.1:0", http_token="s3cret")
    address = str(pipeline.http_address)
    assert post(address, b'{"id": "a"}').status == 401
    assert post(address, b'{"id": "a"}', "application/json", "-H", "Authorization: Bearer s3cret").status == 200


def test_draining_is_told_and_what_is_under_way_is_answered(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    pipeline = start(Hub().ack("delivered").emitter(recorder), http_addr="127.0.0.1:0")
    address = str(pipeline.http_address)
    answers: list[Answer] = []
    waiting = threading.Thread(target=lambda: answers.append(post(address, b'{"id": "under-way"}')))
    waiting.start()
    deadline = time.monotonic() + 30
    while curl(address, "/health").body["events_processed"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopping = threading.Thread(target=lambda: pipeline.stop(20))
    stopping.start()
    while (health := curl(address, "/health")).status != 503:
        assert time.monotonic() < deadline, health
        time.sleep(0.05)
    refused = post(address, b'{"id": "late"}')
    assert (refused.status, refused.codes) == (503, ["DRAINING"])
    assert int(refused.headers["retry-after"]) > 0
    recorder.release()
    stopping.join(30)
    waiting.join(30)
    assert [(answer.status, answer.ids) for answer in answers] == [(200, ["under-way"])]
    assert [event.id for event in recorder.events()] == ["under-way"]


@on_ray_when_slow
def test_a_port_in_use_is_an_error_that_names_it(start: Start, tmp_path: Path) -> None:
    pipeline = start(Hub().emitter(Recorder(tmp_path / "out")), http_addr="127.0.0.1:0")
    with pytest.raises(SettingError, match=r"http_addr=.*in use"):
        start(Hub(name="second").emitter(Recorder(tmp_path / "two")), http_addr=pipeline.http_address)
    assert post(str(pipeline.http_address), b'{"id": "goes-on"}').status == 200
