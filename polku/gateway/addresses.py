"""Where clients come in."""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from polku.errors import SettingError
from polku.gateway.tls import Tls

DOORS = ("native", "grpcio")


@dataclass(frozen=True, slots=True)
class Doors:
    """Say which doors to open: addresses (`host:port`, port 0 for any free one), None for a door that stays shut.

    Where there is an `http_token`, HTTP clients must send it (`Authorization: Bearer …`); where there are `tokens` (the
    path of a file of principals), all clients must say who they are, and events get their principal's name as metadata
    `stamp`. With `tls` all of them speak TLS. With `require` an address that others reach has to have both, unless it
    is `insecure` on purpose. `shared` ports are open in several processes, among which the kernel divides the
    connections (`SO_REUSEPORT`).
    `otlp_addr` and `otlp_http_addr` are second addresses of the gRPC and the HTTP server, where clients of OTLP look.
    `origins` are those of the pages whose browsers may post (`https://app.example.org`).
    `admin_addr` is where others than clients look; it is opened elsewhere, and stands here to be warned of.
    `door` forces the gRPC server: one of `DOORS`; without it the environment's `POLKU_DOOR` counts, else the gateway
    chooses.
    """

    grpc_addr: str | None = None
    http_addr: str | None = None
    otlp_addr: str | None = field(default=None, kw_only=True)
    otlp_http_addr: str | None = field(default=None, kw_only=True)
    http_token: str | None = field(default=None, repr=False)
    shared: bool = False
    tls: Tls | None = None
    tokens: str | None = None
    stamp: str = ""
    require: bool = False
    insecure: bool = False
    admin_addr: str | None = None
    origins: tuple[str, ...] = ()
    door: str | None = field(default_factory=lambda: os.environ.get("POLKU_DOOR") or None)
    version: int = field(default=0, kw_only=True)  # a later one: the same ports are opened again

    def at(self, addresses: Addresses) -> Doors:
        """Return the same doors at other addresses."""
        fields = {f"{name}_addr": address for name, address in addresses._asdict().items()}
        return replace(self, **fields)

    @property
    def all(self) -> Addresses:
        """The addresses to open."""
        return Addresses(self.grpc_addr, self.http_addr, self.otlp_addr, self.otlp_http_addr)

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses to open, by the names of their settings."""
        fields = ("grpc_addr", "http_addr", "otlp_addr", "otlp_http_addr")
        return {name: address for name in fields if (address := getattr(self, name)) is not None}

    def __post_init__(self) -> None:
        if self.door is not None and self.door not in DOORS:
            known = f"known are {' and '.join(DOORS)}, or leave it unset"
            raise SettingError("POLKU_DOOR", self.door, f"is not a door; {known}")


class Addresses(NamedTuple):
    """The addresses to open, or those that are open, with their real ports."""

    grpc: str | None = None
    http: str | None = None
    otlp: str | None = None
    otlp_http: str | None = None

    def over(self, others: Addresses) -> Addresses:
        """Return these, and where there is none that of the others."""
        return Addresses(*(own or other for own, other in zip(self, others, strict=True)))


def check_address(name: str, text: str) -> str:
    """Return a `host:port` or `unix:` address; raises `SettingError`."""
    if text.startswith("unix:") and len(text) > 5:
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise SettingError(name, text, "write HOST:PORT, with a port from 0 (any free one) to 65535")
    return text


def check_free(field: str, address: str | None) -> None:
    """Raise `SettingError` where an address cannot be opened: one that is to be shared would not say so."""
    if address is None or address.startswith("unix:") or address.endswith(":0"):
        return
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
            probe.listen()
        except OSError as error:
            raise SettingError(field, address, _explain(error, port)) from None


def cannot_open(field: str, address: str, error: object) -> SettingError:
    """Return the error of a server that could not open its address: servers do not all pass on why."""
    if address.startswith("unix:"):
        return SettingError(field, address, why_no_socket(address, error))
    try:
        check_free(field, address)
    except SettingError as reason:
        return reason
    except (ValueError, OverflowError):  # no port at all
        pass
    return SettingError(field, address, f"cannot be opened ({error}); is the port in use?")


def why_no_socket(address: str, error: object) -> str:
    """Return why a Unix socket cannot be opened."""
    if "too long" in str(error):
        size = len(os.fsencode(address.removeprefix("unix:").removeprefix("//")))
        most = 107 if sys.platform == "linux" else 103
        return f"a path of {size} bytes is too long for a Unix socket, which may have {most}; choose a shorter one"
    return f"cannot be opened ({getattr(error, 'strerror', None) or error})"


def _explain(error: OSError, port: str) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"is no address of {socket.gethostname()}; use 0.0.0.0:{port}"
    if isinstance(error, socket.gaierror):
        return f"cannot be opened ({error.strerror}); use an address of {socket.gethostname()}, or 0.0.0.0:{port}"
    if error.errno == errno.EACCES:
        return f"cannot be opened ({error.strerror}); choose a port above 1023"
    return f"cannot be opened ({error.strerror}); is the port in use?"
