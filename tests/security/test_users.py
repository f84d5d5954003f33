"""Clients of a Unix socket are known by their user, whom the kernel tells."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from polku import Event, Hub, PlanError
from polku.codes import Code
from polku.errors import InputError
from polku.security.authenticator import Authenticator
from polku.security.token_file import parse
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.support.recorder import Recorder


def test_a_user_has_the_rights_of_its_principal_over_a_unix_socket(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[mine]\nuids = [{os.geteuid()}]\nsources = ["agent"]\n')
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").emitter(recorder).security(tokens=tokens, stamp="polku.principal")
    with hub.start(grpc_addr=f"unix:{tmp_path}/socket") as pipeline, grpc.insecure_channel(str(pipeline.address)) as to:
        send = GatewayStub(to).SendEvent
        assert send(IngestEvent(source="agent", event=Event(id="one")), timeout=30).event_ids == ["one"]
        with pytest.raises(grpc.RpcError, match="principal 'mine': source='other' is not among its sources"):
            send(IngestEvent(source="other", event=Event(id="two")), timeout=30)
        (event,) = recorder.wait_for(1)
    assert event.metadata["polku.principal"] == "mine"


def test_another_user_is_not_known(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("[mine]\nuids = [12345]\n")
    authenticator = Authenticator(str(tokens))
    assert authenticator.identify("", (), 12345).account.name == "mine"
    with pytest.raises(InputError, match="no principal has uid 12346") as caught:
        authenticator.identify("", (), 12346)
    assert caught.value.code is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[a]\nuids = ["root"]', "must be a list of numbers"),
        ("[a]\nuids = [-1]", "must be a list of numbers"),
        ("[a]\nuids = [1]\n[b]\nuids = [1]", r"\[b\] has uid 1, which \[a\] has too"),
    ],
)
def test_what_is_no_user_is_refused_by_name(text: str, fault: str) -> None:
    with pytest.raises(PlanError, match=fault):
        parse(text)
