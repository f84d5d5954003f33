"""Principals by the names in their certificates, on both gRPC servers and over HTTP."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from polku import Hub, Pipeline, Tls, new_event
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.support.authority import Authority, Pair

FILE = """
[workers]
certificates = ["spiffe://example.org/worker/*"]
sources = ["worker"]
"""


@pytest.fixture(scope="module")
def worker(authority: Authority) -> Pair:
    return authority.issue("worker", uri="spiffe://example.org/worker/1")


@pytest.fixture(scope="module")
def guest(authority: Authority) -> Pair:
    return authority.issue("guest")


@pytest.fixture(params=["native", "grpcio"], scope="module")
def pipeline(
    request: pytest.FixtureRequest, authority: Authority, server: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(FILE)
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing")
    hub.security(tls=Tls(server.cert, server.key, client_ca=authority.cert), tokens=path, require=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLKU_DOOR", request.param)
        pipeline = hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0")
    with pipeline:
        yield pipeline


def send(pipeline: Pipeline, authority: Authority, own: Pair, source: str) -> str:
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), own.key.read_bytes(), own.cert.read_bytes())
    with grpc.secure_channel(str(pipeline.address), credentials) as channel:
        try:
            GatewayStub(channel).SendEvent(IngestEvent(event=new_event("a", source=source)), timeout=30)
        except grpc.RpcError as error:
            failure: Any = error
            return f"{failure.code().name} {failure.details()}"
    return "OK"


def post(pipeline: Pipeline, authority: Authority, own: Pair, source: str) -> int:
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.load_cert_chain(own.cert, own.key)
    data = json.dumps({"source": source}).encode()
    request = urllib.request.Request(f"https://{pipeline.http_address}/v1/events", data)
    request.add_header("Content-Type", "application/json")
    try:
        return int(urllib.request.urlopen(request, context=context, timeout=30).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_spiffe_id_is_a_principal_with_its_rights(pipeline: Pipeline, authority: Authority, worker: Pair) -> None:
    assert send(pipeline, authority, worker, "worker") == "OK"
    assert send(pipeline, authority, worker, "other").startswith("PERMISSION_DENIED PERMISSION_DENIED: principal 'wor")
    assert (post(pipeline, authority, worker, "worker"), post(pipeline, authority, worker, "other")) == (200, 403)


def test_a_certificate_that_is_not_listed_is_not_enough(pipeline: Pipeline, authority: Authority, guest: Pair) -> None:
    assert "no principal has a certificate of 'localhost'" in send(pipeline, authority, guest, "worker")
    assert post(pipeline, authority, guest, "worker") == 401
