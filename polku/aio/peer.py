"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import asyncio
import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # process, user, group


def uid_of(transport: asyncio.BaseTransport) -> int | None:
    """Return the user at the other end of a Unix socket, as the kernel knows it; None for other sockets and systems."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])
