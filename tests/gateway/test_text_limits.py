"""Texts that are too long are refused by name on every way in, and are copied nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from polku import Event, Hub, IngestContext, JsonIngestor, Limits, Pipeline
from polku.contracts import Pulled
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent, RawPayload
from tests.gateway.http_client import post
from tests.gateway.test_pulling import Lines, wait_for
from tests.support.recorder import Recorder

LONG = "s" * 257
SAYS = (
    "source='sssssssssssssssssssssssssss...ssssssssssssssssssssssssssss': has 257 bytes, the limit is 256; shorten it"
)
CLOUDEVENT = b'{"specversion": "1.0", "id": "a", "type": "t", "source": "%s"}'


@pytest.fixture(params=["grpcio", "native"])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pipeline]:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    hub = Hub(runtime="inline").ingestor(JsonIngestor()).emitter(Recorder(tmp_path / "out"))
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        yield pipeline


def test_a_long_source_is_refused_whichever_way_it_comes(pipeline: Pipeline) -> None:
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        for message in (
            IngestEvent(source=LONG, event=Event()),
            IngestEvent(source=LONG, events=EventPayload(events=[Event(), Event()])),
            IngestEvent(source=LONG, raw=b"{}"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.SendEvent(message, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == f"INVALID_EVENT: {SAYS}"
        batches = [
            IngestBatch(source=LONG, events=EventPayload(events=[Event()])),
            IngestBatch(source=LONG, raw=RawPayload(data=b"{}")),
        ]
        assert list(map(_only, stub.StreamEvents(iter(batches), timeout=20))) == [("", "INVALID_EVENT", SAYS)] * 2
        ack = stub.SendEvent(IngestEvent(event=Event(id="a", source=LONG)), timeout=30)
        assert _only(ack) == ("a", "INVALID_EVENT", f"events[0].{SAYS}")

    address = str(pipeline.http_address)
    for answer in (
        post(address, b"{}", query=f"?source={LONG}"),
        post(address, b"{}\n{}", "application/x-ndjson", "-H", f"X-Polku-Source: {LONG}"),
        post(
            address,
            EventPayload(events=[Event()]).SerializeToString(),
            "application/x-protobuf",
            query=f"?source={LONG}",
        ),
    ):
        assert (answer.status, answer.codes, answer.message) == (400, ["INVALID_EVENT"], SAYS)
    headers = [
        f"ce-{name}: {value}" for name, value in (("specversion", "1.0"), ("id", "a"), ("type", "t"), ("source", LONG))
    ]
    for answer in (
        post(address, b'{"source": "%s"}' % LONG.encode()),
        post(address, CLOUDEVENT % LONG.encode(), "application/cloudevents+json"),
        post(address, b"", "text/plain", *(part for header in headers for part in ("-H", header))),
    ):
        assert (answer.status, answer.codes, answer.message) == (400, ["INVALID_EVENT"], f"events[0].{SAYS}")

    sender = pipeline.sender()
    for receipt in (
        sender.send(Event(id="a"), source=LONG),
        sender.send_raw(b"{}", source=LONG),
    ):
        assert [(refusal.code, refusal.message) for refusal in receipt.refused] == [("INVALID_EVENT", SAYS)]
    receipt = sender.send([Event(id="good"), Event(id="bad", source=LONG)])
    assert receipt.event_ids == ("good",)
    assert [(refusal.event_id, refusal.message) for refusal in receipt.refused] == [("bad", f"events[1].{SAYS}")]
    assert sender.send(Event(), cluster="c" * 257).refused[0].message.startswith("cluster='ccc")
    assert sender.send_raw(b"{}", source="json", format="f" * 257).refused[0].message.startswith("format='fff")


def _only(ack: Ack) -> tuple[str, str, str]:
    (error,) = ack.errors
    assert not ack.event_ids
    return error.event_id, error.code, error.message


def test_a_plugin_that_gives_long_texts_has_them_refused(tmp_path: Path) -> None:
    def stretch(data: bytes, context: IngestContext) -> list[Event]:
        return [Event(id="a"), Event(id="b", event_type="t" * 300), Event(id="c", route_to=["r"] * 129)]

    with Hub(runtime="inline").ingestor(stretch, source="x").emitter(Recorder(tmp_path / "out")).start() as pipeline:
        receipt = pipeline.sender().send_raw(b"", source="x")
    assert receipt.event_ids == ("a",)
    assert [refusal.event_id for refusal in receipt.refused] == ["b", "c"]
    assert receipt.refused[1].message == (
        "events[2].route_to has 129 entries, the limit is 128; name fewer, or none for all emitters"
    )


def test_a_long_text_from_a_source_is_one_dead_letter_and_the_next_records_come(tmp_path: Path) -> None:
    bad = [Event(id="bad", source=LONG), Event(id="i" * 257, source="s"), Event(id="r", route_to=["x" * 257])]
    lines, out = Lines(*bad, Event(id="good", source="s")), Recorder(tmp_path / "out")
    with Hub(runtime="inline").source(lines).emitter(out).start() as pipeline:
        assert [event.id for event in out.wait_for(1)] == ["good"]
        wait_for(lambda: lines.taken == 4)
        letters = pipeline.dead_letters()
    assert [(letter.event.id, letter.code) for letter in letters] == [(e.id, "INVALID_EVENT") for e in bad]
    assert letters[0].reason == f"line 0: events[0].{SAYS}"


def test_an_id_that_a_source_makes_is_brought_within_the_limit(tmp_path: Path) -> None:
    class Places(Lines):
        async def run(self, open_stream: Callable[..., Pulled]) -> None:  # type: ignore[override]
            stream = open_stream("lines")
            for start in ("t" * 300, "ä" * 300):
                await (await stream.push([Pulled(b"x y", "a place", start, 1)]))  # type: ignore[attr-defined]

    def parse(data: bytes, context: IngestContext) -> list[Event]:
        return [Event(event_type=word.decode()) for word in data.split()]

    out = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").limits(Limits(id_bytes=50)).ingestor(parse, source="lines").source(Places())
    with hub.emitter(out).start():
        ids = [event.id for event in out.wait_for(4)]
    assert [event_id.partition("~")[0] for event_id in ids] == ["t" * 17] * 2 + ["ä" * 8] * 2
    assert len(set(ids)) == 4
    assert max(len(event_id.encode()) for event_id in ids) <= 50
