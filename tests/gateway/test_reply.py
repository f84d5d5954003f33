"""What an ingestor answers its sender itself."""

from __future__ import annotations

import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import grpc
import pytest

from polku import Event, Hub, IngestContext, Pipeline, RecordError, Reply
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.support.recorder import Recorder


def confirm(data: bytes, context: IngestContext) -> Reply:
    if data == b"ping":
        return Reply(b'{"pong": true}', "application/json")
    good = Event(id=data.decode(), event_type="x")
    return Reply("täken", events=[good, RecordError("no", event_id="b")] if data == b"in part" else [good])


def post(pipeline: Pipeline, body: bytes, **headers: str) -> tuple[int, Message, bytes]:
    address = f"http://{pipeline.http_address}/v1/events?source=hook"
    request = urllib.request.Request(address, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_a_sender_reads_the_reply_once_its_events_are_accepted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").ingestor(confirm, source="hook").emitter(recorder)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        status, headers, body = post(pipeline, b"ping")
        assert (status, headers["Content-Type"], body) == (200, "application/json", b'{"pong": true}')
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, headers, body = post(pipeline, b"one")
        assert (status, headers["Content-Type"], body.decode()) == (200, "text/plain; charset=utf-8", "täken")
        status, headers, body = post(pipeline, b"in part")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert b'"event_ids":["in part"]' in body
        with grpc.insecure_channel(str(pipeline.address)) as channel:
            ack = GatewayStub(channel).SendEvent(IngestEvent(source="hook", raw=b"two"), timeout=30)
            assert list(ack.event_ids) == ["two"]
            assert not GatewayStub(channel).SendEvent(IngestEvent(source="hook", raw=b"ping"), timeout=30).errors
        assert [event.id for event in recorder.wait_for(3)] == ["one", "in part", "two"]


def test_nobody_reads_the_reply_to_events_that_are_refused() -> None:
    def refuse(data: bytes) -> Reply:
        return Reply("taken", events=[RecordError("no", event_id="a")])

    with (
        Hub(runtime="inline").ingestor(refuse, source="hook").emitter(print).start(http_addr="127.0.0.1:0") as pipeline
    ):
        status, _, body = post(pipeline, b"x")
    assert status == 400
    assert b"taken" not in body


@pytest.mark.parametrize("media_type", ["text", "text/html\r\nX: y", "text/plain; charset", ""])
def test_a_media_type_that_is_none_is_an_error(media_type: str) -> None:
    with pytest.raises(ValueError, match="write one such as application/json"):
        Reply("x", media_type)
    with pytest.raises(ValueError, match="must be text or bytes"):
        Reply(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("reply", None), ("wait=3, Return=Minimal; foo", "return=minimal"), ("return=representation", ""), ("x", "")],
)
def test_who_wants_no_body_gets_none_where_all_is_accepted(prefer: str, applied: str | None, tmp_path: Path) -> None:
    """Knative's brokers send `Prefer: reply`: a body that is no CloudEvent would be a failure to them."""

    def read(data: bytes) -> list[Event | RecordError]:
        return [Event(id="a"), RecordError("no")] if data == b"in part" else [Event(id="a")]

    hub = Hub(runtime="inline").ingestor(read, source="hook").emitter(Recorder(tmp_path / "out"))
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        status, headers, body = post(pipeline, b"x", Prefer=prefer)
        assert (status, bool(body)) == ((200, True) if applied == "" else (204, False))
        assert headers["Preference-Applied"] == (applied or None)
        status, _, body = post(pipeline, b"in part", Prefer=prefer)
        assert status == 200
        assert b"INVALID_RECORD" in body
