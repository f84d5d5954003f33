"""Open a port for a server of this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from polku.errors import SettingError
from polku.gateway.addresses import cannot_open

_BACKLOG = 1024


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], field: str, address: str, *, shared: bool
) -> tuple[asyncio.Server, str]:
    """Open `host:port` or `unix:path`; return the server and the bound address.

    A `shared` port may be open in other processes too: the kernel divides the connections among them. `[::]` takes
    IPv4 too. Raises `SettingError` about the setting `field` where the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:").removeprefix("//")
            return await loop.create_unix_server(factory, path, backlog=_BACKLOG), address
        written, _, port = address.rpartition(":")
        host = written.strip("[]")
        if int(port) not in range(65_536):  # uvloop would take what is left of it
            raise OverflowError(f"{port} is no port")
        if host == "::":
            sock = socket.create_server(
                (host, int(port)), family=socket.AF_INET6, backlog=_BACKLOG, reuse_port=shared, dualstack_ipv6=True
            )
            server = await loop.create_server(factory, sock=sock, backlog=_BACKLOG)
        else:
            server = await loop.create_server(
                factory, host, int(port), reuse_address=True, reuse_port=shared, backlog=_BACKLOG
            )
    except OSError as error:
        raise cannot_open(field, address, error) from None
    except (ValueError, OverflowError) as error:
        reason = f"cannot be opened ({error}); write HOST:PORT, with a free port from 0 (any) to 65535"
        raise SettingError(field, address, reason) from None
    return server, f"{written}:{server.sockets[0].getsockname()[1]}"
