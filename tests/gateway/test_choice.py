"""Which server stands behind the gRPC port."""

from __future__ import annotations

import importlib.util
import logging

import pytest

from polku import SettingError
from polku.gateway.addresses import Doors
from polku.gateway.fast import FastServer
from polku.gateway.grpc.server import NativeServer
from polku.gateway.grpc_server import choose
from polku.gateway.grpcio import GatewayServer


def test_the_environment_forces_a_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, server in (("grpcio", GatewayServer), ("native", NativeServer), ("fast", FastServer)):
        monkeypatch.setenv("POLKU_DOOR", name)
        assert choose(Doors()) is server


def test_the_log_says_which_door_is_open_and_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("POLKU_DOOR", raising=False)
    with caplog.at_level(logging.INFO):
        assert choose(Doors()) is NativeServer
    assert "the gRPC door is native" in caplog.text


def test_a_door_that_is_forced_and_missing_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'polku\[fast\]'"):
        choose(Doors(door="fast"))


def test_an_unknown_door_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", "back")
    with pytest.raises(SettingError, match="'back'"):
        Doors()
