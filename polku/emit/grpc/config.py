"""What emitters that stream to gRPC services have in common in their configurations, and the checks of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from polku import checks
from polku.emit.grpc.addresses import parse_address
from polku.errors import PlanError

_TOKEN = re.compile(r"[!-~]([ -~]*[!-~])?")

GrpcClientKind = Literal["native", "grpcio"]
_CLIENTS: tuple[str, ...] = get_args(GrpcClientKind)


class StreamConfig(Protocol):
    """What a stream needs of its emitter's configuration: `timeout` in seconds, PEM certificates, a bearer token."""

    @property
    def timeout(self) -> float:
        """The seconds within which an answer must come."""
        ...

    @property
    def root_certificates(self) -> bytes | None:
        """What an encrypted connection is checked against, as PEM; None: what gRPC trusts."""
        ...

    @property
    def client(self) -> GrpcClientKind:
        """Whose client speaks: `native` is POLKU's own."""
        ...

    @property
    def token(self) -> str | None:
        """The bearer token."""
        ...


def endpoint_list(where: str, field: str, value: object) -> tuple[str, ...]:
    """Return one endpoint or several, also from a comma-separated string; raises `PlanError`."""
    endpoints = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(endpoints, Sequence) or not endpoints:
        raise checks.fault(where, field, value, "name at least one, as http://host:port")
    for endpoint in endpoints:
        parse_address(where, endpoint)
    return tuple(endpoints)


def check_stream(where: str, config: StreamConfig) -> None:
    """Make sure of a timeout, certificates and a token; raises `PlanError`."""
    checks.positive(where, "timeout", config.timeout)
    if config.root_certificates is not None and not isinstance(config.root_certificates, bytes):
        raise PlanError("root_certificates must be the bytes of a PEM file", where=where)
    if config.client not in _CLIENTS:
        raise checks.fault(where, "client", config.client, f"choose one of {', '.join(_CLIENTS)}")
    if config.token is not None and not _TOKEN.fullmatch(config.token):
        raise PlanError("token must be printable ASCII without spaces at its ends", where=where)
