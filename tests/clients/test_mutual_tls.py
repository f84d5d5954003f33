"""A client in Go (grpc-go) that shows a certificate, or a token, on both servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Event, Hub, Pipeline, Tls
from polku.security.token_file import file_lines
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent
from tests.clients import toolchains
from tests.clients.driver import Answer, Driver
from tests.support.authority import Authority, Pair
from tests.support.recorder import Recorder

SEND, STREAM = "/polku.v1.Gateway/SendEvent", "/polku.v1.Gateway/StreamEvents"
OK, PERMISSION_DENIED, UNAVAILABLE, UNAUTHENTICATED = 0, 7, 14, 16


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return toolchains.go_client(tmp_path_factory.mktemp("go"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture(params=["native", "grpcio"])
def pipeline(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    authority: Authority,
    recorder: Recorder,
) -> Iterator[Pipeline]:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    pair, tokens = authority.issue(), tmp_path / "tokens.toml"
    lines = file_lines("agents", "secret", {"sources": ["agent"]}, None)
    tokens.write_text(lines + '[workers]\nsources = ["worker"]\ncertificates = ["spiffe://example.org/worker/*"]\n')
    hub = Hub(runtime="inline").emitter(recorder)
    hub.security(tls=Tls(pair.cert, pair.key, client_ca=authority.cert), tokens=tokens, require=True)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


def variables(authority: Authority, own: Pair | None, token: str = "") -> dict[str, str]:
    shown = {} if own is None else {"TLS_CERTIFICATE": str(own.cert), "TLS_KEY": str(own.key)}
    return {"TLS_ROOTS": str(authority.cert), **shown, **({"TOKEN": token} if token else {})}


def one(source: str, name: str) -> bytes:
    return IngestEvent(source=source, event=Event(id=name, event_type="test")).SerializeToString()


def ids(answer: Answer) -> list[list[str]]:
    assert answer.code == OK, answer
    return [list(Ack.FromString(message).event_ids) for message in answer.messages]


def test_a_go_client_is_who_its_certificate_says(
    program: list[str], pipeline: Pipeline, authority: Authority, recorder: Recorder
) -> None:
    own = authority.issue("worker", uri="spiffe://example.org/worker/1")
    with Driver(program, str(pipeline.address), variables=variables(authority, own)) as client:
        assert ids(client.unary(SEND, one("worker", "a"))) == [["a"]]
        events = [Event(id=f"b{n}", event_type="test") for n in range(50)]
        batch = IngestBatch(source="worker", events=EventPayload(events=events)).SerializeToString()
        assert ids(client.stream(STREAM, [batch] * 1)) == [[f"b{n}" for n in range(50)]]
        refused = client.unary(SEND, one("agent", "c"))
        assert refused.code == PERMISSION_DENIED
        assert "principal 'workers'" in refused.details
    assert [event.id for event in recorder.wait_for(51)] == ["a", *(f"b{n}" for n in range(50))]


def test_a_go_client_of_another_name_needs_a_token(
    program: list[str], pipeline: Pipeline, authority: Authority
) -> None:
    guest = authority.issue("guest")
    with Driver(program, str(pipeline.address), variables=variables(authority, guest)) as client:
        assert client.unary(SEND, one("agent", "a")).code == UNAUTHENTICATED
    with Driver(program, str(pipeline.address), variables=variables(authority, guest, "secret")) as client:
        assert ids(client.unary(SEND, one("agent", "a"))) == [["a"]]


def test_a_go_client_without_a_certificate_does_not_get_in(
    program: list[str], pipeline: Pipeline, authority: Authority
) -> None:
    with Driver(program, str(pipeline.address), variables=variables(authority, None, "secret")) as client:
        assert client.unary(SEND, one("agent", "a"), seconds=30).code == UNAVAILABLE
