"""Connections through a proxy (CONNECT, RFC 9110, section 9.3.6), by the variables that all programs know.

`HTTPS_PROXY` is asked for encrypted connections, `HTTP_PROXY` for plain ones, `NO_PROXY` names what is reached
directly; this machine always is.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from polku.host import is_loopback
from polku.text import line

_MOST = 16 << 10  # bytes of a proxy's answer
_DEFAULT_PORT = 80


class Proxy(NamedTuple):
    """A proxy, and what it wants to be told of us (empty: nothing)."""

    host: str
    port: int
    credentials: str

    def __str__(self) -> str:
        return f"proxy {self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return its URL, without credentials."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """Return what a request to it says of us."""
        if not self.credentials:
            return {}
        return {"Proxy-Authorization": f"Basic {base64.b64encode(self.credentials.encode()).decode()}"}


def proxy_for(host: str, port: int, *, tls: bool) -> Proxy | None:
    """Return the proxy that leads to a server; None: it is reached directly. Raises `ValueError`."""
    if is_loopback(host):
        return None
    name = "https_proxy" if tls else "http_proxy"
    if not os.environ.get(name) and not os.environ.get(name.upper()):
        return None
    import urllib.request  # it costs 4 MB, and few need it

    proxies = urllib.request.getproxies_environment()
    url = proxies.get(name.removesuffix("_proxy"))
    if not url or urllib.request.proxy_bypass_environment(f"{host}:{port}", proxies):  # type: ignore[attr-defined]
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{name.upper()}: write http://host:port")
    user = unquote(parts.username or "")
    credentials = f"{user}:{unquote(parts.password or '')}" if user else ""
    return Proxy(parts.hostname, parts.port or _DEFAULT_PORT, credentials)


async def open_tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """Return a socket that leads through a proxy to a server; raises `OSError` that names the proxy."""
    loop = asyncio.get_running_loop()
    sock: socket.socket | None = None
    try:
        found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, _request(proxy, host, port))
        answer = await _read_head(loop, sock)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise ConnectionError(f"{proxy}: {line(error)}") from None
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    first = answer.split(b"\r\n", 1)[0]
    if first.split(b" ")[1:2] != [b"200"]:
        sock.close()
        raise ConnectionError(f"{proxy} answers {line(first.decode('latin-1'), 200)!r}")
    return sock


def _request(proxy: Proxy, host: str, port: int) -> bytes:
    name = f"[{host}]" if ":" in host else host
    request = f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n"
    request += "".join(f"{name}: {value}\r\n" for name, value in proxy.headers.items())
    return f"{request}\r\n".encode()


async def _read_head(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """Read up to the empty line and not a byte further: what follows is the server's."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = await loop.sock_recv(sock, 1)
        if not byte or len(head) > _MOST:
            raise ConnectionError("it closed the connection" if not byte else "its answer has no end")
        head += byte
    return head
