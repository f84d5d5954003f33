"""Which server stands behind the gRPC port."""

from __future__ import annotations

import logging

import pytest

from polku import Hub, SettingError
from polku.gateway.addresses import Doors
from polku.gateway.grpc.server import NativeServer
from polku.gateway.grpc_server import choose
from polku.gateway.grpcio import GatewayServer


def test_the_environment_forces_a_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, server in (("grpcio", GatewayServer), ("native", NativeServer)):
        monkeypatch.setenv("POLKU_DOOR", name)
        assert choose(Doors()) is server


def test_the_log_says_which_door_is_open_and_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("POLKU_DOOR", raising=False)
    with caplog.at_level(logging.DEBUG):
        assert choose(Doors()) is NativeServer
    assert "the gRPC door is native" in caplog.text


@pytest.mark.parametrize("name", ["grpcio", "native"])
def test_the_log_says_which_limits_a_server_does_not_hold(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POLKU_DOOR", name)
    with Hub(runtime="inline").emitter(lambda batch: None).start(grpc_addr="127.0.0.1:0", admin_addr="off"):
        pass
    missing = "holds no limits on grpc_connections, address_connections, unfinished messages, answers that nobody reads"
    assert (missing in caplog.text) is (name == "grpcio")


@pytest.mark.parametrize("name", ["back", "fast"])
def test_an_unknown_door_is_refused_with_the_variable_and_the_choices(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", name)
    with pytest.raises(SettingError, match=f"POLKU_DOOR='{name}'.*known are native and grpcio"):
        Doors()
    with pytest.raises(SettingError, match=r"POLKU_DOOR='fast'.*known are native and grpcio"):
        Doors(door="fast")
