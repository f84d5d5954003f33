"""Send events on to any gateway that speaks `polku.v1.Gateway`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polku import checks
from polku.clock import Clock
from polku.emit.grpc.addresses import Address, parse_address
from polku.emit.grpc.config import GrpcClientKind, check_stream, endpoint_list
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret

if TYPE_CHECKING:
    from polku.emit.grpc.client import GrpcClient


@dataclass(frozen=True, slots=True)
class GrpcEmitter:
    """Stream batches to a gateway, or to the least loaded of several, and read each Ack.

    An event is confirmed when an Ack lists its id. Refused events are tried again where that can help (the other
    side is full, unavailable or draining) and become dead letters where it cannot. `source` and `cluster` name us to
    the other side; its ingestor is not asked, the events go as they are. Batches over `max_message_bytes`, or over
    the limit that the other side names, are split; an event that is over it alone becomes a dead letter.

    Up to `window` batches may be in flight at once; an Ack must come within `timeout` seconds. A broken stream fails
    what is open on it; where another endpoint works it is sent there at once, and one that failed is used again when
    a connection to it stands. `token` is sent as `authorization: Bearer`. `http://` and bare `host:port` are plain,
    `https://` is encrypted and checked against the system's or the given `root_certificates` (PEM: a path or bytes),
    and shows a `certificate` where the server asks for one; files that change count from the next connection on.
    `unix:` is a socket of this machine.
    """

    endpoints: str | Sequence[str]
    name: str = field(default="grpc", kw_only=True)
    source: str = field(default="polku", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    window: int = field(default=8, kw_only=True)
    max_message_bytes: int = field(default=4 * 1024 * 1024, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)
    client: GrpcClientKind = field(default="native", kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoints", endpoint_list("GrpcEmitter", "endpoints", self.endpoints))
        check_stream("GrpcEmitter", self)
        checks.whole("GrpcEmitter", "window", self.window)
        checks.whole("GrpcEmitter", "max_message_bytes", self.max_message_bytes)

    def addresses(self) -> list[Address]:
        """Return the endpoints as gRPC wants them."""
        return [parse_address("GrpcEmitter", endpoint) for endpoint in self.endpoints]

    def build(self, clock: Clock) -> GrpcClient:
        """Make the running emitter."""
        from polku.emit.grpc.client import GrpcClient

        return GrpcClient(self)
