"""TLS on the gateway's ports, whatever the pipeline runs on."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path

import grpc
import pytest

from polku import Hub, SettingError, Tls, new_event
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.support.authority import Authority
from tests.support.recorder import Recorder


def test_both_ports_speak_tls(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    authority = Authority(tmp_path / "certificates")
    pair = authority.issue()
    hub = Hub().emitter(recorder).security(tls=Tls(pair.cert, pair.key))
    pipeline = start(hub, grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0")
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    request = urllib.request.Request(f"https://{pipeline.http_address}/v1/events", b'{"id": "http", "event_type": "a"}')
    request.add_header("Content-Type", "application/json")
    assert urllib.request.urlopen(request, context=trusting, timeout=30).status == 200
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
    with grpc.secure_channel(str(pipeline.address), credentials) as channel:
        ack = GatewayStub(channel).SendEvent(IngestEvent(event=new_event("a", id="grpc")), timeout=30)
    assert list(ack.event_ids) == ["grpc"]
    recorder.wait_for(2)


@on_ray_when_slow
def test_a_certificate_that_is_missing_is_named(start: Start, tmp_path: Path) -> None:
    hub = Hub().emitter(Recorder(tmp_path / "out")).security(tls=Tls(tmp_path / "none.pem", tmp_path / "none.key"))
    with pytest.raises(SettingError, match=r"tls_cert='.*none.pem': cannot be read"):
        start(hub, grpc_addr="127.0.0.1:0")
