"""What user code says may hold anything: it costs no answer, no letter and no health report, and forges no log line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Batch, Event, Failure, Hub, RecordError, RejectedError, Transform, Validator
from polku.v1.gateway_pb2 import Ack, EventPayload, HealthRequest, HealthResponse, IngestBatch, RawPayload
from tests.gateway.http_client import curl

LONE = json.loads('"\\ud800"')  # what a client of JSON can make user code say
TEXT = f"unknown user {LONE}\x1b[2J\n2026-01-01 ERROR forged"
SHOWN = "unknown user \\ud800\\x1b[2J\\n2026-01-01 ERROR forged"


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


def raising(event: Event) -> None:
    if event.id == "bad":
        raise ValueError(TEXT)


def mute(event: Event) -> None:
    if event.id == "bad":
        raise MuteError


class WholeBatch:
    def process(self, events: list[Event]) -> list[Event]:
        if any(event.id == "bad" for event in events):
            raise LookupError(TEXT)
        return events


def emitting(error: Exception | None) -> Callable[[Batch], list[Failure]]:
    def emit(batch: Batch) -> list[Failure]:
        if error is not None and "bad" in batch.ids:
            raise error
        return [Failure(event_id, TEXT, retryable=False) for event_id in batch.ids if event_id == "bad"]

    return emit


def validator() -> Validator:
    return Validator(lambda event: TEXT if event.id == "bad" else None, on_invalid="dead_letter")


def stream(address: str, *messages: IngestBatch) -> list[Ack]:
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, Ack.FromString)
        return list(call((message.SerializeToString() for message in messages), timeout=20))


def events(*ids: str) -> IngestBatch:
    return IngestBatch(source="s", events=EventPayload(events=[Event(id=event_id) for event_id in ids]))


def nowhere(batch: Batch) -> None:
    """Take everything."""


MIDDLEWARE: dict[str, Callable[[], object]] = {
    "each": lambda: Transform(raising),
    "whole": WholeBatch,
    "check": validator,
    "mute": lambda: Transform(mute),
}


@pytest.mark.parametrize("kind", MIDDLEWARE)
def test_middleware_that_says_anything_costs_only_its_event(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "dead.db"
    hub = Hub(runtime="inline").middleware(MIDDLEWARE[kind]()).emitter(nowhere, name="out").dead_letters(path)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        first, second = stream(str(pipeline.address), events("a", "bad", "b"), events("c"))
        (letter,) = pipeline.dead_letters()
    assert (list(first.event_ids), list(second.event_ids)) == (["a", "b"], ["c"])
    assert letter.event.id == "bad"
    assert letter.reason == first.errors[0].message
    assert letter.reason.endswith("MuteError: (its text cannot be had: RuntimeError)" if kind == "mute" else SHOWN)
    for record in caplog.records:
        record.getMessage().encode()
        assert "\x1b" not in record.getMessage()


@pytest.mark.parametrize("error", [None, RejectedError(TEXT), RejectedError(LONE)], ids=["failure", "raised", "lone"])
def test_a_destination_that_says_anything_costs_only_its_event(error: Exception | None, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    hub = Hub(runtime="inline").ack("delivered").emitter(emitting(error), name="out").dead_letters(path)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        (first,) = stream(str(pipeline.address), events("bad"))  # raised, it is about all that is in the call
        (second,) = stream(str(pipeline.address), events("a"))
        (letter,) = pipeline.dead_letters()
        report = pipeline.stop(30)
    shown = "\\ud800" if error is not None and str(error) == LONE else SHOWN
    assert (first.errors[0].message, letter.reason, list(second.event_ids)) == (shown, shown, ["a"])
    assert report.complete


def read(data: bytes) -> list[Event | RecordError]:
    if data == b"raise":
        raise ValueError(TEXT)
    return [Event(id="a"), RecordError(TEXT, event_id=LONE)]


def test_an_ingestor_that_says_anything_costs_only_its_record() -> None:
    hub = Hub(runtime="inline").ingestor(read, source="s").emitter(nowhere, name="out")
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        raw = [IngestBatch(source="s", raw=RawPayload(data=data)) for data in (b"raise", b"x")]
        whole, record = stream(str(pipeline.address), *raw)
        answer = curl(str(pipeline.http_address), "/v1/events?source=s", body=b"raise", type="application/octet-stream")
    assert whole.errors[0].message == f"ingestor for source='s': ValueError: {SHOWN}"
    assert (record.errors[0].event_id, record.errors[0].message) == ("\\ud800", SHOWN)
    assert list(record.event_ids) == ["a"]
    assert (answer.status, answer.message) == (500, whole.errors[0].message)


class Unhealthy:
    """Take nothing, and say so in its own words."""

    name = "unhealthy"
    alarm = TEXT
    text = TEXT

    def emit(self, batch: Batch) -> None:
        raise AssertionError("nothing is sent to it")

    def statistics(self) -> Unhealthy:
        return self


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_an_alarm_is_told_at_the_admin_address_and_its_text_not_in_public(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", door)
    ports = {"grpc_addr": "127.0.0.1:0", "http_addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}
    with Hub(runtime="inline").emitter(Unhealthy()).start(**ports) as pipeline:
        with grpc.insecure_channel(str(pipeline.address)) as channel:
            ask: Any = channel.unary_unary("/polku.v1.Gateway/Health", None, HealthResponse.FromString)
            health = ask(HealthRequest().SerializeToString(), timeout=20)
        answer = curl(str(pipeline.http_address), "/health?strict")
        told = curl(str(pipeline.admin_address), "/health")
    assert told.body["components"]["emitter:unhealthy"] == {"healthy": False, "message": SHOWN}
    public = health.components["emitter:unhealthy"]
    assert (public.healthy, public.message) == (False, "unhealthy; why is said at the admin address")
    assert answer.body["components"]["emitter:unhealthy"] == {"healthy": False, "message": public.message}
    assert answer.status == 503
