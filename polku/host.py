"""Whether only this machine reaches an address: one answer for ports, proxies, the admin address and nodes."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host, as a name or an IP address, is the loopback interface."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(address: str) -> bool:
    """Return whether only this machine reaches a `host:port` or `unix:path`."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0].strip("[]"))
