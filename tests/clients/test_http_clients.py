"""Clients of other makers on the HTTP port, over TLS: curl, and the CloudEvents SDKs of Python and Go."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cloudevents.core.bindings import http as cloudevents_http
from cloudevents.core.v1.event import CloudEvent

from polku import Hub, Tls
from polku.security.token_file import file_lines
from tests.clients.toolchains import SOURCES, need, run
from tests.support.authority import Authority, Pair
from tests.support.recorder import Recorder


class Gateway(NamedTuple):
    """An HTTP port that asks for a certificate: it knows one principal by a token, and one by the certificate."""

    address: str
    authority: Authority
    out: Recorder

    @property
    def url(self) -> str:
        """Where events are sent to."""
        return f"https://{self.address}/v1/events"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    authority = Authority(tmp_path / "certificates")
    pair, tokens, out = authority.issue(), tmp_path / "tokens.toml", Recorder(tmp_path / "out")
    lines = file_lines("agents", "secret", {"sources": ["agent"]}, None)
    tokens.write_text(lines + '[workers]\nsources = ["worker"]\ncertificates = ["spiffe://example.org/worker/*"]\n')
    hub = Hub(runtime="inline").emitter(out)
    hub.security(tls=Tls(pair.cert, pair.key, client_ca=authority.cert), tokens=tokens, require=True)
    with hub.start(http_addr="127.0.0.1:0") as pipeline:
        yield Gateway(str(pipeline.http_address), authority, out)


def curl(gateway: Gateway, pair: Pair | None, source: str, *options: str) -> tuple[int, Any]:
    """Post an event; return curl's exit status and the answer with its HTTP status."""
    shown = ["--cert", str(pair.cert), "--key", str(pair.key)] if pair is not None else []
    body = json.dumps({"id": f"from-{source}", "source": source, "event_type": "t"})
    command = ["curl", "-sS", "--max-time", "30", "--cacert", str(gateway.authority.cert), *shown, *options]
    command += ["-H", "Content-Type: application/json", "-w", "\n%{http_code}", "--data-binary", body, gateway.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    text, _, status = done.stdout.rpartition("\n")
    return done.returncode, (int(status or 0), json.loads(text) if text else None)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_who_its_certificate_or_its_token_says(gateway: Gateway) -> None:
    worker = gateway.authority.issue("worker", uri="spiffe://example.org/worker/1")
    guest, token = gateway.authority.issue("guest"), ("-H", "Authorization: Bearer secret")
    status, (code, answer) = curl(gateway, worker, "worker")
    assert (status, code, answer["event_ids"]) == (0, 200, ["from-worker"])
    _, (code, answer) = curl(gateway, worker, "agent")
    assert code == 403
    assert "principal 'workers': source='agent' is not among its sources" in json.dumps(answer)
    _, (code, answer) = curl(gateway, guest, "agent")
    assert (code, answer["errors"][0]["code"]) == (401, "UNAUTHENTICATED")
    assert curl(gateway, guest, "agent", *token)[1][0] == 200
    assert curl(gateway, None, "agent", *token)[0] != 0  # without a certificate there is no connection
    assert [event.id for event in gateway.out.wait_for(2)] == ["from-worker", "from-agent"]


def test_the_cloudevents_sdk_of_python_sends_over_tls_with_a_token(gateway: Gateway) -> None:
    context, guest = ssl.create_default_context(cafile=str(gateway.authority.cert)), gateway.authority.issue("guest")
    context.load_cert_chain(guest.cert, guest.key)
    connection = http.client.HTTPSConnection(gateway.address, timeout=60, context=context)
    for mode, make in (
        ("binary", cloudevents_http.to_binary_event),
        ("structured", cloudevents_http.to_structured_event),
    ):
        for source, status in (("agent", 200), ("other", 403)):
            given: Any = {"id": mode, "source": source, "type": "order.paid", "specversion": "1.0"}
            message = make(CloudEvent({**given, "datacontenttype": "application/json"}, {"total": 1.5}))
            headers = {**message.headers, "Authorization": "Bearer secret"}
            connection.request("POST", "/v1/events", message.body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == status, text
    connection.close()
    events = gateway.out.wait_for(2)
    assert [(event.id, event.source, event.event_type) for event in events] == [
        ("binary", "agent", "order.paid"),
        ("structured", "agent", "order.paid"),
    ]
    assert {event.payload for event in events} == {b'{"total": 1.5}'}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_cloudevents_sdk_of_go_sends_with_a_certificate_or_a_token(gateway: Gateway, tmp_path: Path) -> None:
    need("go")
    program = str(tmp_path / "client")
    run(["go", "build", "-o", program, "."], SOURCES / "go_cloudevents", {"GOFLAGS": "-modcacherw"})

    def send(pair: Pair | None, token: str, source: str, *ids: str) -> list[str]:
        shown = {} if pair is None else {"TLS_CERTIFICATE": str(pair.cert), "TLS_KEY": str(pair.key)}
        variables = {"TLS_ROOTS": str(gateway.authority.cert), "TOKEN": token, **shown}
        command = [program, gateway.url, source, *ids]
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout.splitlines()

    guest = gateway.authority.issue("guest")
    assert send(guest, "secret", "agent", "a", "b") == ["a ack", "b ack"]
    for token, source, code in (("secret", "other", "403"), ("wrong", "agent", "401")):
        refused = send(guest, token, source, "c", "d")
        assert [line.split()[:3] for line in refused] == [[name, "nack", f'"{code}:'] for name in "cd"]
    assert 'e nack "Post' in str(send(None, "secret", "agent", "e"))  # there is no connection
    events = gateway.out.wait_for(2)
    assert [event.id for event in events] == ["a", "b"]
    assert json.loads(events[1].payload) == {"number": 1, "text": "ä ö"}
