"""Principals and their rights, whatever the pipeline runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import Hub, SettingError, new_event
from polku.security.token_file import file_lines
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.support.recorder import Recorder


def test_clients_say_who_they_are_and_may_do_what_the_file_says(start: Start, tmp_path: Path) -> None:
    recorder, tokens = Recorder(tmp_path / "out"), tmp_path / "tokens.toml"
    tokens.write_text(file_lines("agents", "secret", {"sources": ["agent-*"]}, None))
    hub = Hub().emitter(recorder).security(tokens=tokens, stamp="polku.principal")
    pipeline = start(hub, grpc_addr="127.0.0.1:0")
    metadata = (("authorization", "Bearer secret"),)
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = GatewayStub(channel)
        for token, source, code in (
            (metadata, "billing", grpc.StatusCode.PERMISSION_DENIED),
            (None, "agent-1", grpc.StatusCode.UNAUTHENTICATED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.SendEvent(IngestEvent(event=new_event("a", source=source)), metadata=token, timeout=30)
            error: Any = caught.value
            assert error.code() is code
        stub.SendEvent(IngestEvent(event=new_event("a", source="agent-1")), metadata=metadata, timeout=30)
    assert [event.metadata["polku.principal"] for event in recorder.wait_for(1)] == ["agents"]


@on_ray_when_slow
def test_a_file_of_tokens_that_is_missing_ends_the_start(start: Start, tmp_path: Path) -> None:
    hub = Hub().emitter(Recorder(tmp_path / "out")).security(tokens=tmp_path / "none.toml")
    with pytest.raises(SettingError, match=r"tokens='.*none\.toml': cannot be read"):
        start(hub, grpc_addr="127.0.0.1:0")
