"""Send events on to any gateway that speaks `polku.v1.Gateway`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polku import arguments
from polku.clock import Clock
from polku.emit.addresses import Address, parse_address
from polku.errors import PlanError

if TYPE_CHECKING:
    from polku.emit.grpc_client import GrpcClient


@dataclass(frozen=True, slots=True)
class GrpcEmitter:
    """Stream batches to a gateway, or to the least loaded of several, and read each Ack.

    An event is confirmed when an Ack lists its id. Refused events are tried again where that can help (the other
    side is full, unavailable or draining) and become dead letters where it cannot. `source` and `cluster` name us to
    the other side; its ingestor is not asked, the events go as they are. Batches over `max_message_bytes` are split;
    an Ack must come within `timeout` seconds. `token` is sent as `authorization: Bearer`. `http://` and bare
    `host:port` are plain, `https://` is encrypted and checked against the system's or the given `root_certificates`
    (PEM), `unix:` is a socket of this machine.
    """

    endpoints: str | Sequence[str]
    name: str = field(default="grpc", kw_only=True)
    source: str = field(default="polku", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    max_message_bytes: int = field(default=4 * 1024 * 1024, kw_only=True)
    root_certificates: bytes | None = field(default=None, kw_only=True)
    token: str | None = field(default=None, kw_only=True, repr=False)

    is_remote = True

    def __post_init__(self) -> None:
        endpoints = (self.endpoints,) if isinstance(self.endpoints, str) else tuple(self.endpoints)
        if not endpoints:
            raise PlanError("endpoints is empty; name at least one", where="GrpcEmitter")
        object.__setattr__(self, "endpoints", endpoints)
        self.addresses()
        arguments.positive("GrpcEmitter", "timeout", self.timeout)
        arguments.whole("GrpcEmitter", "max_message_bytes", self.max_message_bytes)

    def addresses(self) -> list[Address]:
        """Return the endpoints as gRPC wants them."""
        return [parse_address("GrpcEmitter", endpoint) for endpoint in self.endpoints]

    def build(self, clock: Clock) -> GrpcClient:
        """Make the running emitter."""
        from polku.emit.grpc_client import GrpcClient

        return GrpcClient(self)
