"""What the connections to one gRPC port share."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from polku.gateway.grpc.calls import Method
from polku.gateway.grpc.heads import HeadReader
from polku.gateway.places import ByteShares, Places
from polku.http2.limits import ConnectionLimits

if TYPE_CHECKING:
    from polku.gateway.grpc.protocol import GrpcConnection
    from polku.security.authenticator import Authenticator


class GrpcPort:
    """What the connections to one port share: methods, limits, and the places and bytes that they take."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        limits: ConnectionLimits,
        *,
        message_limit: int,
        plain_limit: int = 0,
        places: Places,
        authenticator: Authenticator | None = None,
        open_paths: Collection[bytes] = (),
    ) -> None:
        self.heads = HeadReader(methods, open_paths)
        self.authenticator = authenticator
        self.limits = limits
        self.message_limit = message_limit
        self.plain_limit = plain_limit or message_limit  # of a message when it is decompressed
        self.places = places
        self.connections: set[GrpcConnection] = set()
        what = "messages that have come in part"
        self.unfinished = ByteShares(what, total=limits.port_unfinished, each=limits.address_unfinished)
        self.waiting = ByteShares("messages that wait", total=limits.port_unfinished, each=limits.address_unfinished)
        self.unpacking = asyncio.Lock()  # held while a large message is decompressed: one at a time takes its memory
