"""`grpcurl`, which knows a service by reflection alone, against the gateway's gRPC servers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Hub, Pipeline, Tls
from polku.security.token_file import file_lines
from tests.clients.toolchains import go_program
from tests.support.authority import Authority, Pair
from tests.support.recorder import Recorder

_PACKAGE, _VERSION = "github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.3"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first build takes minutes


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return go_program(_PACKAGE, _VERSION, tmp_path_factory.mktemp("grpcurl"))


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture(params=["native", "grpcio"])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Iterator[Pipeline]:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    with Hub(runtime="inline").emitter(recorder).start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline


def grpcurl(program: str, pipeline: Pipeline, *arguments: str, options: tuple[str, ...] = ()) -> str:
    command = [program, "-plaintext", *options, str(pipeline.address), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_services_are_listed_and_described(program: str, pipeline: Pipeline) -> None:
    services = grpcurl(program, pipeline, "list").split()
    assert {"polku.v1.Gateway", "grpc.health.v1.Health"} <= set(services)
    methods = grpcurl(program, pipeline, "list", "polku.v1.Gateway").split()
    assert sorted(methods) == [f"polku.v1.Gateway.{name}" for name in ("Health", "SendEvent", "StreamEvents")]
    assert "message IngestEvent" in grpcurl(program, pipeline, "describe", "polku.v1.IngestEvent")


def test_events_are_sent_as_json(program: str, pipeline: Pipeline, recorder: Recorder) -> None:
    event = json.dumps({"source": "curl", "event": {"id": "one", "event_type": "test"}})
    ack = json.loads(grpcurl(program, pipeline, "polku.v1.Gateway/SendEvent", options=("-d", event)))
    assert ack["event_ids"] == ["one"]
    batch = json.dumps({"source": "curl", "events": {"events": [{"id": "two", "event_type": "test"}]}})
    ack = json.loads(grpcurl(program, pipeline, "polku.v1.Gateway/StreamEvents", options=("-d", batch)))
    assert ack["event_ids"] == ["two"]
    assert [event.id for event in recorder.wait_for(2)] == ["one", "two"]


def test_health_is_answered(program: str, pipeline: Pipeline) -> None:
    assert json.loads(grpcurl(program, pipeline, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}


@pytest.fixture(params=["native", "grpcio"])
def guarded(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorder: Recorder
) -> Iterator[tuple[Pipeline, Authority]]:
    """A gateway that asks for a certificate of its authority, and knows one principal by a token, one by its name."""
    monkeypatch.setenv("POLKU_DOOR", request.param)
    authority = Authority(tmp_path / "certificates")
    pair, tokens = authority.issue(), tmp_path / "tokens.toml"
    lines = file_lines("agents", "secret", {"sources": ["agent"]}, None)
    tokens.write_text(lines + '[workers]\ncertificates = ["spiffe://example.org/worker/*"]\n')
    hub = Hub(runtime="inline").emitter(recorder)
    hub.security(tls=Tls(pair.cert, pair.key, client_ca=authority.cert), tokens=tokens, require=True)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        yield pipeline, authority


def test_a_client_says_who_it_is_by_a_token_or_its_certificate(
    program: str, guarded: tuple[Pipeline, Authority], recorder: Recorder
) -> None:
    pipeline, authority = guarded

    def send(own: Pair, event: str, *options: str) -> subprocess.CompletedProcess[str]:
        given = ("-cacert", str(authority.cert), "-cert", str(own.cert), "-key", str(own.key), *options)
        command = [program, *given, "-d", event, str(pipeline.address), "polku.v1.Gateway/SendEvent"]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    guest, worker = authority.issue("guest"), authority.issue("worker", uri="spiffe://example.org/worker/1")
    token = ("-H", "authorization: Bearer secret")
    agent, other = ('{"source": "%s", "event": {"id": "%s"}}' % (name, name) for name in ("agent", "other"))  # noqa: UP031
    assert "UNAUTHENTICATED" in send(guest, agent).stderr  # it cannot even ask for the services
    assert send(guest, agent, *token).returncode == 0
    refused = send(guest, other, *token)
    assert "PermissionDenied" in refused.stderr
    assert "principal 'agents': source='other' is not among its sources" in refused.stderr
    assert send(worker, other).returncode == 0
    assert [event.id for event in recorder.wait_for(2)] == ["agent", "other"]
