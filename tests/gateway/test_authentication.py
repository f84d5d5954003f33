"""Who may send what, over gRPC (both servers) and HTTP: a file of principals in front of a pipeline."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from polku import Event, HmacVerifier, Hub, IngestContext, Pipeline, new_event
from polku.security import authenticator, failures
from polku.security.token_file import file_lines
from polku.v1.gateway_pb2 import Ack, EventPayload, HealthRequest, IngestBatch, IngestEvent, RawPayload
from polku.v1.gateway_pb2_grpc import GatewayStub

TOKENS = (
    file_lines("agents", "agents", {"sources": ["agent-*"], "clusters": ["prod", ""], "streams": 1}, None)
    + file_lines("routers", "routers", {"may_route": True, "may_set_reserved": True}, None)
    + file_lines("slow", "slow", {"events_per_second": 0.001}, None)
    + "".join(file_lines(name, name, {"bytes_per_second": 0.001}, None) for name in ("few-grpc", "few-http"))
)


class Gateway(NamedTuple):
    """A pipeline in front of which clients must say who they are."""

    pipeline: Pipeline
    path: Path
    events: list[Event]

    def write(self, text: str) -> None:
        """Put another file in place."""
        aside = self.path.with_suffix(".new")
        aside.write_text(text)
        os.replace(aside, self.path)


def _read_headers(data: bytes, context: IngestContext) -> Event:
    return Event(id="headers", metadata=context.headers)


@pytest.fixture(params=["native", "grpcio"], scope="module")
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(TOKENS)
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLKU_DOOR", request.param)
        patch.setattr(authenticator, "_LOOK_SECONDS", 0.05)
        hub = Hub(runtime="inline").emitter(lambda batch: events.extend(batch), name="all")
        hub.security(tokens=path, stamp="polku.principal").ingestor(_read_headers, source="headers")
        pipeline = hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0")
    with pipeline:
        yield Gateway(pipeline, path, events)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no stranger wait: how long one does is tested where it matters."""
    monkeypatch.setattr(failures, "_LONGEST_PAUSE", 0.01)


@pytest.fixture
def stub(gateway: Gateway) -> Iterator[GatewayStub]:
    with grpc.insecure_channel(str(gateway.pipeline.address)) as channel:
        yield GatewayStub(channel)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def send(stub: GatewayStub, token: str, **fields: Any) -> Ack:
    return stub.SendEvent(IngestEvent(**fields), metadata=bearer(token), timeout=30)


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


class HttpAnswer(NamedTuple):
    status: int
    json: Any
    headers: Mapping[str, str]


def http(gateway: Gateway, path: str, token: str = "", body: object = None, **headers: str) -> HttpAnswer:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{gateway.pipeline.http_address}{path}", data)
    request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return HttpAnswer(answer.status, json.load(answer), dict(answer.headers))
    except urllib.error.HTTPError as error:
        return HttpAnswer(error.code, json.load(error), dict(error.headers))


def found(gateway: Gateway, event_id: str) -> Event:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for event in list(gateway.events):
            if event.id == event_id:
                return event
        time.sleep(0.01)
    raise AssertionError(f"{event_id} did not come")


def test_a_client_that_is_known_sends_and_its_events_bear_its_name(gateway: Gateway, stub: GatewayStub) -> None:
    ack = send(stub, "agents", event=new_event("a", id="known", source="agent-1"))
    assert list(ack.event_ids) == ["known"]
    assert found(gateway, "known").metadata["polku.principal"] == "agents"
    assert http(gateway, "/v1/events", "agents", {"id": "known-http", "source": "agent-1"}).status == 200
    assert found(gateway, "known-http").metadata["polku.principal"] == "agents"


@pytest.mark.parametrize(("token", "text"), [("", "send 'Bearer TOKEN'"), ("wrong", "the token is not known")])
def test_a_stranger_learns_what_to_send(gateway: Gateway, stub: GatewayStub, token: str, text: str) -> None:
    code, details = refused(lambda: send(stub, token, event=new_event("a", source="agent-1")))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert text in details
    stream = stub.StreamEvents(iter([IngestBatch()]), metadata=bearer(token), timeout=20)
    assert refused(lambda: list(stream))[0] is grpc.StatusCode.UNAUTHENTICATED
    answer = http(gateway, "/v1/events", token, {"source": "agent-1"})
    assert (answer.status, answer.json["errors"][0]["code"]) == (401, "UNAUTHENTICATED")
    assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_what_a_principal_has_no_right_to_is_refused_by_name(gateway: Gateway, stub: GatewayStub) -> None:
    for fields, text in (
        ({"event": new_event("a", source="billing")}, "source='billing' is not among its sources"),
        ({"source": "billing", "event": Event(event_type="a")}, "source='billing'"),
        ({"source": "agent-1", "cluster": "test", "event": Event(event_type="a")}, "cluster='test' is not among"),
        ({"event": Event(source="agent-1", route_to=["all"])}, "route_to=['all'] is for principals with the right"),
        ({"event": Event(source="agent-1", metadata={"polku.principal": "x"})}, "'polku.principal'] begins with"),
        ({"source": "json", "raw": b'{"source": "agent-1"}'}, "source='json' is not among its sources"),
    ):
        code, details = refused(lambda fields=fields: send(stub, "agents", **fields))  # type: ignore[misc]
        assert code is grpc.StatusCode.PERMISSION_DENIED, details
        assert text in details
        assert details.startswith("PERMISSION_DENIED: principal 'agents': ")
    for path, event in (
        ("/v1/events?source=billing", {"source": "agent-1"}),
        ("/v1/events", {"source": "billing"}),
        ("/v1/events?source=agent-1&cluster=test", {}),
        ("/v1/events", {"source": "agent-1", "route_to": ["all"]}),
        ("/v1/events", {"source": "agent-1", "metadata": {"polku.x": "1"}}),
    ):
        answer = http(gateway, path, "agents", event)
        assert (answer.status, answer.json["errors"][0]["code"]) == (403, "PERMISSION_DENIED"), answer
        assert "principal 'agents'" in answer.json["errors"][0]["message"]


def test_an_event_that_is_refused_costs_neither_the_others_nor_the_stream(gateway: Gateway, stub: GatewayStub) -> None:
    good, strange = new_event("a", id="good", source="agent-1"), new_event("a", id="strange", source="billing")
    routed = Event(id="routed", source="agent-1", route_to=["all"])
    batches = [
        IngestBatch(events=EventPayload(events=[strange, good, routed])),
        IngestBatch(source="billing", raw=RawPayload(data=b"{}", format="json")),
        IngestBatch(source="agent-2", events=EventPayload(events=[Event(id="filled", event_type="a")])),
    ]
    acks = list(stub.StreamEvents(iter(batches), metadata=bearer("agents"), timeout=20))
    assert [list(ack.event_ids) for ack in acks] == [["good"], [], ["filled"]]
    assert [[(error.event_id, error.code) for error in ack.errors] for ack in acks] == [
        [("strange", "PERMISSION_DENIED"), ("routed", "PERMISSION_DENIED")],
        [("", "PERMISSION_DENIED")],
        [],
    ]
    answer = http(gateway, "/v1/events", "agents", [{"id": "1", "source": "billing"}, {"id": "2", "source": "agent-1"}])
    assert (answer.status, answer.json["event_ids"]) == (200, ["2"])


def test_a_principal_with_the_rights_routes_and_keeps_the_stamps_of_others(gateway: Gateway, stub: GatewayStub) -> None:
    event = Event(id="forwarded", source="x", route_to=["all"], metadata={"polku.principal": "elsewhere"})
    assert list(send(stub, "routers", event=event).event_ids) == ["forwarded"]
    assert found(gateway, "forwarded").metadata["polku.principal"] == "elsewhere"


def test_a_rate_that_is_used_up_says_when_to_come_back(gateway: Gateway, stub: GatewayStub) -> None:
    events = [Event(event_type="a") for _ in range(3)]
    assert len(send(stub, "slow", events=EventPayload(events=events)).event_ids) == 3
    with pytest.raises(grpc.RpcError) as caught:
        send(stub, "slow", event=events[0])
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "principal 'slow': events_per_second=0.001 is used up" in error.details()
    assert ("grpc-retry-pushback-ms", "1000") in error.trailing_metadata()
    answer = http(gateway, "/v1/events", "slow", {})
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert answer.json["errors"][0]["code"] == "RATE_LIMITED"


def test_messages_that_are_refused_whole_count_for_the_rate(gateway: Gateway, stub: GatewayStub) -> None:
    codes = [refused(lambda: send(stub, "few-grpc", source="empty"))[0] for _ in range(2)]
    assert codes == [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED]
    protobuf = {"Content_Type": "application/x-protobuf"}
    answers = [http(gateway, "/v1/events", "few-http", "no protobuf", **protobuf).status for _ in range(2)]
    assert answers == [400, 429]


def test_ingestors_do_not_see_the_tokens_of_clients(gateway: Gateway) -> None:
    assert http(gateway, "/v1/events?source=headers", "routers", {}, X_Own="1").status == 200
    metadata = found(gateway, "headers").metadata
    assert metadata["x-own"] == "1"
    assert "authorization" not in metadata


def test_a_principal_has_as_many_streams_as_it_may(gateway: Gateway, stub: GatewayStub) -> None:
    goes_on = threading.Event()

    def batches() -> Iterator[IngestBatch]:
        yield IngestBatch(source="agent-1", events=EventPayload(events=[Event()]))
        goes_on.wait(60)

    first: Any = stub.StreamEvents(batches(), metadata=bearer("agents"), timeout=20)
    assert len(next(first).event_ids) == 1
    second = stub.StreamEvents(iter([IngestBatch()]), metadata=bearer("agents"), timeout=20)
    code, details = refused(lambda: list(second))
    assert (code, "streams=1 are open" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    goes_on.set()
    assert list(first) == []
    assert len(list(stub.StreamEvents(iter([IngestBatch()]), metadata=bearer("agents"), timeout=20))) == 1


def test_refusals_wait_and_calls_of_others_on_the_connection_do_not(
    gateway: Gateway, stub: GatewayStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("_FREE", 0), ("_FIRST_PAUSE", 3.0), ("_LONGEST_PAUSE", 3.0)):
        monkeypatch.setattr(failures, name, seconds)
    began = time.monotonic()
    strangers = [stub.SendEvent.future(IngestEvent(), metadata=bearer("wrong"), timeout=30) for _ in range(20)]
    send(stub, "agents", event=new_event("a", source="agent-1"))
    assert not any(call.done() for call in strangers)
    assert {call.code() for call in strangers} == {grpc.StatusCode.UNAUTHENTICATED}
    assert 3.0 <= time.monotonic() - began < 60


def test_strangers_learn_whether_it_serves_and_no_names(gateway: Gateway, stub: GatewayStub) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(str(gateway.pipeline.address)) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        assert refused(lambda: list(ask(iter([question]), timeout=20)))[0] is grpc.StatusCode.UNAUTHENTICATED
        answers = list(ask(iter([question]), metadata=bearer("agents"), timeout=20))
        assert "polku.v1.Gateway" in str(answers[0])
    assert refused(lambda: stub.Health(HealthRequest(), timeout=30))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert "ingest" in stub.Health(HealthRequest(), metadata=bearer("agents"), timeout=20).components
    assert (http(gateway, "/health").status, http(gateway, "/health").json["components"]) == (200, {})
    assert "ingest" in http(gateway, "/health", "agents").json["components"]


def test_tokens_are_rotated_under_load_and_nothing_is_refused_or_lost(gateway: Gateway, stub: GatewayStub) -> None:
    token, stop = "agents", threading.Event()
    sent: list[str] = []
    errors: list[str] = []

    def load() -> None:
        while not stop.is_set():
            sent.append(f"load-{len(sent)}")
            try:
                send(stub, token, event=new_event("a", id=sent[-1], source="agent-1"))
            except grpc.RpcError as error:
                errors.append(str(error))

    def more() -> None:
        seen = len(sent)
        _wait(lambda: len(sent) > seen + 2)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        more()
        gateway.write(TOKENS + file_lines("agents", "next", {}, None))
        _wait(lambda: _is_known(gateway, "next"))
        more()
        token = "next"
        more()
        gateway.write(file_lines("agents", "next", {"sources": ["agent-*"]}, None))
        _wait(lambda: not _is_known(gateway, "agents"))
        more()
    finally:
        stop.set()
        thread.join()
        gateway.write(TOKENS)
    assert errors == []
    found(gateway, sent[-1])
    assert {event.id for event in gateway.events} >= set(sent)
    _wait(lambda: not _is_known(gateway, "next"))


def test_a_stream_whose_token_ends_is_answered_and_then_ended(gateway: Gateway, stub: GatewayStub) -> None:
    ended = threading.Event()

    def batches() -> Iterator[IngestBatch]:
        yield IngestBatch(source="agent-1", events=EventPayload(events=[Event(id="before-the-end")]))
        ended.wait(60)
        yield IngestBatch(source="agent-1", events=EventPayload(events=[Event(id="after-the-end")]))

    gateway.write(TOKENS + file_lines("agents", "brief", {}, None))
    _wait(lambda: _is_known(gateway, "brief"))
    stream: Any = stub.StreamEvents(batches(), metadata=bearer("brief"), timeout=20)
    assert list(next(stream).event_ids) == ["before-the-end"]
    gateway.write(TOKENS)
    _wait(lambda: not _is_known(gateway, "brief"))
    ended.set()
    assert refused(lambda: list(stream))[0] is grpc.StatusCode.UNAUTHENTICATED


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_known(gateway: Gateway, token: str) -> bool:
    return bool(http(gateway, "/health", token).json["components"])


def test_a_signed_webhook_needs_no_token_and_nothing_else_gets_in_by_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "_LOOK_SECONDS", 0.05)
    secret, body = "s3cret", b'{"action": "opened"}'

    def read(data: bytes, context: IngestContext) -> Event:
        kind = context.headers["x-github-event"]
        metadata = {"path": context.path, "query": context.query, **json.loads(data).get("metadata", {})}
        return Event(event_type=f"github.{kind}", payload=data, metadata=metadata)

    def signed(content: bytes) -> str:
        return "sha256=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()

    path, events = tmp_path / "tokens.toml", list[Event]()
    path.write_text(TOKENS)
    hub = Hub(runtime="inline").ingestor(HmacVerifier.github(secret, read), source="github")
    hub.emitter(lambda batch: events.extend(batch), name="all").security(tokens=path)
    signature = signed(body)

    def post(*, event: bytes = body, **headers: str) -> int:
        url = f"http://{pipeline.http_address}/v1/events?source=github"
        request = urllib.request.Request(url, event)
        request.add_header("X-GitHub-Event", "issues")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            return int(urllib.request.urlopen(request, timeout=30).status)
        except urllib.error.HTTPError as error:
            return error.code

    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        assert post(X_Hub_Signature_256=signature, Content_Type="application/json") == 200
        assert post(event=b"{}", X_Hub_Signature_256=signature, Content_Type="application/json") == 401
        for media_type in ("application/json", "application/cloudevents+json", "application/x-protobuf", "text/plain"):
            assert post(Content_Type=media_type) == 401
        assert post(ce_specversion="1.0", ce_id="1", ce_source="s", ce_type="t", Content_Type="text/plain") == 401
        forged = b'{"metadata": {"polku.principal": "routers"}}'
        assert post(event=forged, X_Hub_Signature_256=signed(forged), Content_Type="application/json") == 403
        path.with_suffix(".new").write_text(TOKENS + '["webhook:github"]\nmay_set_reserved = true\n')
        os.replace(path.with_suffix(".new"), path)
        deadline = time.monotonic() + 30
        while post(event=forged, X_Hub_Signature_256=signed(forged), Content_Type="application/json") != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert events.pop().metadata["polku.principal"] == "routers"
    assert [(event.event_type, event.payload, event.source) for event in events] == [("github.issues", body, "github")]
    assert dict(events[0].metadata) == {"path": "/v1/events", "query": "source=github"}
