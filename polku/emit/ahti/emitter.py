"""Send events to AHTI, the knowledge graph."""

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
    from polku.emit.ahti.client import AhtiClient


@dataclass(frozen=True, slots=True)
class AhtiEmitter:
    """Stream events to AHTI, or to the least loaded of several, and read each ack.

    A batch is one message of `StreamEvents` (`polku.emit.ahti.mapping` says what becomes of an event; its payload has
    no place in AHTI and stays behind). Its events are confirmed by an ack with `success`; where that names ids, by
    being named. A batch that AHTI refuses is sent in halves, to find out which events are at fault: one that is refused
    alone is a dead letter, with the error of the ack, if AHTI took another one of the batch before it, or refused it
    `refusals` times in a row; while AHTI takes nothing at all, everything is tried again. Batches over
    `max_message_bytes`, or over the limit that AHTI names, are split; an event that is over it alone is a dead letter.

    Endpoints (a list, or separated by commas), `timeout`, `window`, `token`, `root_certificates` and `certificate` are
    those of a `GrpcEmitter`. What was refused comes behind batches that were in flight beside it; `window=1` keeps
    order then too.
    """

    endpoint: str | Sequence[str]
    name: str = field(default="ahti", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    window: int = field(default=8, kw_only=True)
    refusals: int = field(default=10, kw_only=True)
    max_message_bytes: int = field(default=4 * 1024 * 1024, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)
    client: GrpcClientKind = field(default="native", kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoint", endpoint_list("AhtiEmitter", "endpoint", self.endpoint))
        check_stream("AhtiEmitter", self)
        for option in ("window", "refusals", "max_message_bytes"):
            checks.whole("AhtiEmitter", option, getattr(self, option))

    def addresses(self) -> list[Address]:
        """Return the endpoints as gRPC wants them."""
        return [parse_address("AhtiEmitter", endpoint) for endpoint in self.endpoint]

    def build(self, clock: Clock) -> AhtiClient:
        """Make the running emitter."""
        from polku.emit.ahti.client import AhtiClient

        return AhtiClient(self)
