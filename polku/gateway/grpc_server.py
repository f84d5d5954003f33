"""Choose the server behind the gRPC port, and say which and why."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

from polku.errors import SettingError
from polku.gateway.addresses import Doors
from polku.gateway.grpcio import GatewayServer

if TYPE_CHECKING:
    from polku.gateway.fast import FastServer
    from polku.gateway.grpc.server import NativeServer

_LOG = logging.getLogger(__name__)
_PACKAGE = "pygrpc_native"


def choose(doors: Doors) -> type[GatewayServer] | type[FastServer] | type[NativeServer]:
    """Return the class of the gRPC server; raises `SettingError` where the one that is asked for cannot be had."""
    installed = importlib.util.find_spec(_PACKAGE) is not None
    if doors.door == "fast" and not installed:
        raise SettingError("POLKU_DOOR", "fast", "needs the extra `fast`: pip install 'polku[fast]'")
    if doors.door is not None:
        return _say(doors.door, "it is asked for")
    return _say("native", "it costs the least; POLKU_DOOR=grpcio chooses the other")


def _say(door: str, reason: str) -> type[GatewayServer] | type[FastServer] | type[NativeServer]:
    _LOG.info("the gRPC door is %s: %s", door, reason)
    if door == "grpcio":
        return GatewayServer
    if door == "native":
        from polku.gateway.grpc.server import NativeServer

        return NativeServer
    from polku.gateway.fast import FastServer

    return FastServer
