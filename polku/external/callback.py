"""Where a plugin that registers is called back: where its call came from, or where the pipeline allows it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeAlias
from urllib.parse import unquote

from polku.emit.grpc.addresses import Address

_Ip: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
"""Services of clouds that tell secrets to whoever asks; the others of them are link-local."""
_RESOLVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Callback:
    """The address of a registered plugin, and the token that its calls have to show, if any."""

    address: str
    token: str | None = field(default=None, repr=False)


def host_of(peer: str) -> str:
    """Return the host of a peer as gRPC writes it (`ipv4:127.0.0.1:1`); empty for a Unix socket."""
    if peer.startswith("unix:"):
        return ""
    host = unquote(peer.partition(":")[2].rpartition(":")[0])
    return host.removeprefix("[").removesuffix("]")


async def locate(address: Address, caller: str, allowed: Sequence[str]) -> tuple[str, str]:
    """Return the target to connect to, and why not (empty: it may be).

    `caller` is the host that registers, empty for a Unix socket. `allowed` are networks (CIDR), addresses and names of
    hosts (`*` fits any text) that plugins may have too. Without TLS the target is the address that was looked at: a
    name could be another one by the time it is connected to.
    """
    if address.target.startswith("unix"):
        return "", "is a Unix socket: plugins that register have a port"
    host, _, port = address.target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    found = await _resolve(host)
    if not found:
        return "", "is not known by that name here"
    by_name = any(fnmatchcase(host.lower(), pattern.lower()) for pattern in allowed)
    for ip in found:
        if reason := _fault(ip, caller, () if by_name else allowed, is_named=by_name):
            return "", reason
    if address.tls:
        return address.target, ""
    first = found[0]
    return f"[{first}]:{port}" if first.version == 6 else f"{first}:{port}", ""


def _fault(ip: _Ip, caller: str, allowed: Sequence[str], *, is_named: bool) -> str:
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        return "is an address that no plugin may have"
    if is_named or _is_own(ip, caller) or any(_fits(ip, network) for network in allowed):
        return ""
    return "is not where the call came from; register from there, or allow it: allow_plugins(addresses=[...])"


def _is_own(ip: _Ip, caller: str) -> bool:
    try:
        own = _plain(ipaddress.ip_address(caller)) if caller else None
    except ValueError:
        return False
    return ip == own or (ip.is_loopback and (own is None or own.is_loopback))


def _fits(ip: _Ip, network: str) -> bool:
    try:
        return ip in ipaddress.ip_network(network, strict=False)
    except ValueError:  # the name of a host
        return False


def _plain(ip: _Ip) -> _Ip:
    return getattr(ip, "ipv4_mapped", None) or ip


async def _resolve(host: str) -> list[_Ip]:
    try:
        return [_plain(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return [_plain(ipaddress.ip_address(str(one[4][0]).partition("%")[0])) for one in found]
