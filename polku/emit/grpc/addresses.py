"""Read the addresses of gRPC services as people write them."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import Struct

from polku.errors import PlanError


class Address(Struct, frozen=True):
    """Where a service is: `target` as gRPC wants it, and whether the connection is encrypted."""

    target: str
    tls: bool


def parse_address(where: str, value: object) -> Address:
    """Read `http://host:port`, `https://host:port`, `host:port` or `unix:/path`; raises `PlanError`."""
    allowed = "write http://host:port, https://host:port, host:port or unix:/path"
    if not isinstance(value, str) or not value or value != value.strip():
        raise PlanError(f"endpoint={value!r}: {allowed}", where=where)
    if value.startswith("unix:") and value not in ("unix:", "unix://"):
        return Address(value, False)
    url = urlsplit(value if "://" in value else f"http://{value}")
    try:
        port = url.port
    except ValueError:
        port = None
    extra = url.path.strip("/") or url.query or url.fragment or url.username is not None
    if url.scheme not in ("http", "https") or not url.hostname or extra:
        raise PlanError(f"endpoint={value!r}: {allowed}", where=where)
    port = port or (443 if url.scheme == "https" and "://" in value else None)
    if port is None:
        raise PlanError(f"endpoint={value!r} has no port; {allowed}", where=where)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Address(f"{host}:{port}", url.scheme == "https")
