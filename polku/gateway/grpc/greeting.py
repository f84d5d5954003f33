"""Who a client is by its connection, and what one hears that speaks something else than HTTP/2."""

from __future__ import annotations

import asyncio
import logging

from polku.gateway.grpc.heads import NOT_GRPC
from polku.log import RepeatedLog

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_TLS_HELLO = b"\x16\x03"  # a record with a handshake, of any version
_HTTP1 = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"TRACE ")


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Return the peer's name as grpcio writes it."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{'ipv6' if ':' in name[0] else 'ipv4'}:{host}:{name[1]}"
    return f"unix:{id(transport)}"


def answer_others(data: bytes, address: str) -> bytes | None:
    """Return the last words for a client at an address whose first bytes are no HTTP/2; None: too few to know."""
    if any(method.startswith(data) for method in _HTTP1):
        return None
    if data.startswith(_TLS_HELLO):
        _REPEATED.info("tls", "a client of %s speaks TLS, this port does not; give it a certificate", address)
    if not data.startswith(_HTTP1):
        return b""
    text = f"{NOT_GRPC}.\n".encode()
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % len(text) + text
