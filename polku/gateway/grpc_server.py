"""Choose the server behind the gRPC port, and say which and why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from polku.errors import SettingError
from polku.gateway.addresses import Doors

if TYPE_CHECKING:
    from polku.gateway.grpc.server import NativeServer
    from polku.gateway.grpcio import GatewayServer

_LOG = logging.getLogger(__name__)


def choose(doors: Doors) -> type[GatewayServer] | type[NativeServer]:
    """Return the class of the gRPC server; raises `SettingError` where the one that is asked for cannot do all."""
    if doors.tls is not None and doors.door == "grpcio" and doors.tls.client_auth == "optional":
        reason = "cannot ask for a certificate that clients need not have; use `native`, or client_auth='required'"
        raise SettingError("POLKU_DOOR", "grpcio", reason)
    if doors.door is not None:
        return _say(doors.door, "it is asked for")
    return _say("native", "it costs the least; POLKU_DOOR=grpcio chooses the other")


def _say(door: str, reason: str) -> type[GatewayServer] | type[NativeServer]:
    _LOG.debug("the gRPC door is %s: %s", door, reason)
    if door == "grpcio":
        from polku.gateway.grpcio import GatewayServer

        return GatewayServer
    from polku.gateway.grpc.server import NativeServer

    return NativeServer
