"""A class that inherits from a built-in ingestor, and reads otherwise, is called whichever way its bytes have come."""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Event, HmacVerifier, Hub, IngestContext, Pipeline
from polku.ingest import CloudEventsIngestor, JsonIngestor, OtlpIngestor, PassthroughIngestor
from polku.ingest.inherited import is_of_ingest
from polku.v1.gateway_pb2 import IngestBatch, IngestEvent, RawPayload
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.support.recorder import Recorder

SOURCE = "mine"
BODY = b'{"id": "theirs", "event_type": "x"}'


def inherited(kind: type) -> Any:
    """Return an ingestor that inherits from one, and has an `ingest` of its own."""

    class Mine(kind):  # type: ignore[misc] # any of them
        sources = (SOURCE,)

        def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event]:
            yield Event(event_type="mine", payload=data)

    return Mine()


KINDS = [JsonIngestor, CloudEventsIngestor, PassthroughIngestor, OtlpIngestor]


def start(ingestor: Any, source: str, tmp_path: Path) -> tuple[Pipeline, Recorder]:
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").ingestor(ingestor, source=source).emitter(recorder)
    return hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0"), recorder


def post(pipeline: Pipeline, path: str, body: bytes, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{pipeline.http_address}{path}", body, named)
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_an_ingest_of_ones_own_is_called_over_http_and_grpc(kind: type, tmp_path: Path) -> None:
    pipeline, recorder = start(inherited(kind), SOURCE, tmp_path)
    with pipeline:
        post(pipeline, f"/v1/events?source={SOURCE}", BODY)
        post(pipeline, f"/v1/events?source={SOURCE}", BODY, Content_Type="application/octet-stream")
        raw = IngestBatch(source=SOURCE, cluster="c", raw=RawPayload(data=BODY))
        with grpc.insecure_channel(str(pipeline.address)) as channel:
            stub: Any = GatewayStub(channel)
            one = IngestEvent(source=SOURCE, raw=BODY)
            assert len(stub.SendEvent(one, timeout=30).event_ids) == 1
            assert [len(ack.event_ids) for ack in stub.StreamEvents(iter([raw, raw]), timeout=30)] == [1, 1]
        events = recorder.wait_for(5)
    assert {(event.event_type, event.payload) for event in events} == {("mine", BODY)}


def test_an_ingest_of_ones_own_is_called_for_requests_of_otlp(tmp_path: Path) -> None:
    pipeline, recorder = start(inherited(OtlpIngestor), "otlp", tmp_path)
    with pipeline:
        post(pipeline, "/v1/logs", BODY, Content_Type="application/x-protobuf")
        (event,) = recorder.wait_for(1)
    assert (event.event_type, event.payload) == ("mine", BODY)


def test_an_ingest_of_ones_own_is_called_for_signed_requests(tmp_path: Path) -> None:
    pipeline, recorder = start(HmacVerifier.github("secret", inherited(JsonIngestor)), SOURCE, tmp_path)
    signature = "sha256=" + hmac.new(b"secret", BODY, hashlib.sha256).hexdigest()
    with pipeline:
        post(pipeline, f"/v1/events?source={SOURCE}", BODY, X_Hub_Signature_256=signature)
        (event,) = recorder.wait_for(1)
    assert (event.event_type, json.loads(event.payload)["id"]) == ("mine", "theirs")


def test_what_is_said_of_an_ingest_is_not_said_of_one_in_its_place() -> None:
    class Named(JsonIngestor):
        sources = (SOURCE,)

    class Turning(JsonIngestor):
        takes_turns = True

        def ingest(self, data: bytes, context: IngestContext) -> Iterator[Any]:
            return super().ingest(data, context)

    of = {kind: is_of_ingest(kind(), "takes_turns") for kind in (JsonIngestor, Named, Turning)}
    assert of == {JsonIngestor: True, Named: True, Turning: True}
    assert not is_of_ingest(Turning(), "ingest_in_slices")
    assert not is_of_ingest(inherited(JsonIngestor), "takes_turns")
