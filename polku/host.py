"""Whether only this machine reaches an address: one answer for ports, proxies, the admin address and nodes."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """Return whether a host, as a name or an IP address, is the loopback interface."""
    if host.lower() in ("localhost", "127.0.0.1", "::1"):
        return True
    import ipaddress  # for other addresses: few start with one

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(address: str) -> bool:
    """Return whether only this machine reaches a `host:port` or `unix:path`."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0].strip("[]"))
