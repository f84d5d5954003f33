"""How the router reaches a plugin: address, deadline, encryption, and the gRPC channel made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polku import checks
from polku.emit.grpc.addresses import Address, parse_address
from polku.errors import PlanError
from polku.security.client_tls import Certificate, ClientTls, Pem, Pems, check_client_tls
from polku.security.secret import Secret, reveal

_CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConnection:
    """Describe the way to one plugin; checks its fields and names `where` they were given.

    A call may take `timeout` seconds, an answer `max_answer_bytes`. Health is asked for every `health_interval`
    seconds. `token` is sent as `authorization: Bearer`.
    """

    where: str
    address: str
    timeout: float = 5.0
    health_interval: float = 5.0
    max_answer_bytes: int = 64 * 1024 * 1024
    root_certificates: Pem | None = None
    certificate: Certificate | None = None
    token: str | Secret | None = None

    def __post_init__(self) -> None:
        self.target()
        checks.positive(self.where, "timeout", self.timeout)
        checks.positive(self.where, "health_interval", self.health_interval)
        checks.whole(self.where, "max_answer_bytes", self.max_answer_bytes)
        roots = check_client_tls(self.where, self.root_certificates, self.certificate)
        object.__setattr__(self, "root_certificates", roots)
        check_token(self.where, self.token)

    def target(self) -> Address:
        """Return the address as gRPC wants it."""
        return parse_address(self.where, self.address)

    def tls(self) -> ClientTls | None:
        """Return what the connection begins with where it is encrypted."""
        return ClientTls(self.root_certificates, self.certificate) if self.target().tls else None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {reveal(self.token)}"),) if self.token else ()

    def open(self, pems: Pems | None) -> Any:
        """Make the channel, with what `tls` has read; it connects when it is first used, and again after it broke."""
        import grpc
        import grpc.aio

        options = [
            ("grpc.max_receive_message_length", self.max_answer_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            # In spite of its name this is how long connecting may take (github.com/grpc/grpc/issues/12830).
            ("grpc.min_reconnect_backoff_ms", round(min(_CONNECT_TIMEOUT, self.timeout) * 1_000)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        address = self.target()
        if pems is not None:
            credentials = grpc.ssl_channel_credentials(pems.roots, pems.key, pems.chain)
            return grpc.aio.secure_channel(address.target, credentials, options)
        return grpc.aio.insecure_channel(address.target, options)


def check_token(where: str, token: str | Secret | None) -> None:
    """Make sure of a token that can stand in a header."""
    if token is None or isinstance(token, Secret):
        return
    printable = isinstance(token, str) and token.isascii() and token.isprintable()
    if not printable or not token or token != token.strip():
        raise PlanError("token must be printable ASCII without spaces at its ends", where=where)
