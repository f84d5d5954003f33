"""What emitters that stream to gRPC services have in common in their configurations, and the checks of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from polku import checks
from polku.emit.grpc.addresses import parse_address
from polku.errors import PlanError
from polku.security.client_tls import Certificate, Pem, check_client_tls
from polku.security.secret import Secret

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
    def root_certificates(self) -> Pem | None:
        """What an encrypted connection is checked against, as PEM; None: what the system trusts."""
        ...

    @property
    def certificate(self) -> Certificate | None:
        """What is shown to a server that asks for a certificate."""
        ...

    @property
    def client(self) -> GrpcClientKind:
        """Whose client speaks: `native` is POLKU's own."""
        ...

    @property
    def token(self) -> str | Secret | None:
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
    roots = check_client_tls(where, config.root_certificates, config.certificate)
    object.__setattr__(config, "root_certificates", roots)
    if config.client not in _CLIENTS:
        raise checks.fault(where, "client", config.client, f"choose one of {', '.join(_CLIENTS)}")
    token = config.token
    if token is None or isinstance(token, Secret) or (isinstance(token, str) and _TOKEN.fullmatch(token)):
        return
    raise PlanError("token must be printable ASCII without spaces at its ends, or a polku.Secret", where=where)
