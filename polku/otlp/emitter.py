"""Send events to anything that takes OTLP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from polku import checks
from polku.clock import Clock
from polku.emit.grpc.addresses import parse_address
from polku.errors import PlanError
from polku.otlp.signals import check_installed
from polku.security.client_tls import Certificate, Pem, check_client_tls
from polku.security.secret import Secret

if TYPE_CHECKING:
    from polku.otlp.client import OtlpClient

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[ -~]*")


class OtlpProtocol(StrEnum):
    """Say how requests travel."""

    GRPC = "grpc"
    HTTP = "http"
    """As protobuf, to the paths `/v1/logs`, `/v1/traces` and `/v1/metrics`."""


class OtlpCompression(StrEnum):
    """Say how requests are compressed."""

    NONE = "none"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class OtlpEmitter:
    """Send log records, spans and metrics as they came in, and events of any other origin as log records.

    `endpoint` is `http://host:port`, or `https://` with TLS, checked against the system's or the given
    `root_certificates` (PEM: a path or bytes); with HTTP it may have a path, behind which `/v1/logs` and so on follow,
    and with gRPC it may be `host:port` or `unix:/path`. `headers` are sent with each request, such as an
    `authorization`, which may be a `Secret`. A `certificate` is shown where the server asks for one. Files that change
    are read again.

    A request has up to `max_events` records and `max_body_bytes` bytes, before compression, and `window` of them may be
    in flight. What the server may take later is sent again after the pause that it names; where it refuses a request
    permanently, the records that are at fault are found by halves and become dead letters. Of a request that it takes
    in part it does not say which records it refused: all of them become dead letters with its text, and those that it
    took come twice if they are replayed.
    """

    endpoint: str
    protocol: OtlpProtocol | str = field(default=OtlpProtocol.GRPC, kw_only=True)
    name: str = field(default="otlp", kw_only=True)
    headers: Mapping[str, str | Secret] = field(default_factory=dict, kw_only=True, repr=False)
    compression: OtlpCompression | str = field(default=OtlpCompression.GZIP, kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    window: int = field(default=4, kw_only=True)
    max_events: int = field(default=4_096, kw_only=True)
    max_body_bytes: int = field(default=4 * 1000 * 1000, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True, repr=False)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        where = "OtlpEmitter"
        object.__setattr__(self, "protocol", checks.choice(where, "protocol", self.protocol, OtlpProtocol))
        object.__setattr__(self, "compression", checks.choice(where, "compression", self.compression, OtlpCompression))
        if self.protocol is OtlpProtocol.GRPC:
            parse_address(where, self.endpoint)
        else:
            _check_url(self.endpoint)
        object.__setattr__(self, "headers", _checked_headers(self.headers))
        checks.positive(where, "timeout", self.timeout)
        for name in ("window", "max_events", "max_body_bytes"):
            checks.whole(where, name, getattr(self, name))
        roots = check_client_tls(where, self.root_certificates, self.certificate)
        object.__setattr__(self, "root_certificates", roots)

    def check_extras(self) -> None:
        """Raise `PlanError` with the command that installs what is missing."""
        check_installed()

    def build(self, clock: Clock) -> OtlpClient:
        """Make the running emitter."""
        from polku.otlp.client import OtlpClient

        check_installed()
        return OtlpClient(self, clock)


def _check_url(url: object) -> None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        is_http = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if parts is not None and is_http and not parts.query and not parts.fragment:
            return
    except ValueError:  # the port is no number, or brackets do not match
        pass
    raise checks.fault("OtlpEmitter", "endpoint", url, "write http://host:port or https://host:port")


def _checked_headers(headers: object) -> dict[str, str | Secret]:
    if not isinstance(headers, Mapping):
        raise PlanError("headers must be a mapping of names to values", where="OtlpEmitter")
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PlanError(f"headers: {name!r} is no header's name", where="OtlpEmitter")
        if isinstance(value, Secret):
            continue
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise PlanError(f"headers: the value of {name!r} must be printable ASCII", where="OtlpEmitter")
    return {name.lower(): value for name, value in headers.items()}
