"""The header blocks of answers: the head that begins one, and the trailers that end it with a status."""

from __future__ import annotations

import base64

from polku.gateway.retry_hints import retry_metadata
from polku.http2.header_blocks import literal
from polku.rpc.status import Status, StatusCode, percent_encoded
from polku.text import line

_MESSAGE = 1_000  # characters: clients take 8 KiB of trailers

# :status 200 is entry 8 of the static table; content-type is entry 31, here as a literal that is not indexed.
_CONTENT_TYPE = b"application/grpc"
HEAD = b"\x88\x0f\x10" + bytes((len(_CONTENT_TYPE),)) + _CONTENT_TYPE
PACKED_HEAD = HEAD + literal(b"grpc-encoding", b"gzip")
OK_TRAILERS = literal(b"grpc-status", b"0")


def trailers(status: Status) -> bytes:
    """Return the header block that ends a call whose answer has begun."""
    if status.code == StatusCode.OK and not status.metadata:
        return OK_TRAILERS
    block = literal(b"grpc-status", b"%d" % status.code)
    message = line(status.message, _MESSAGE)
    if message:
        block += literal(b"grpc-message", percent_encoded(message))
    for name, value in status.metadata:
        block += literal(name.encode(), value.encode())
    if status.retry_seconds is not None:
        for name, content in retry_metadata(status.code, message, status.retry_seconds):
            block += literal(name.encode(), content.encode() if isinstance(content, str) else _base64(content))
    return block


def whole_answer(status: Status) -> bytes:
    """Return the header block that is all of an answer ("Trailers-Only")."""
    return HEAD + trailers(status)


def _base64(content: bytes) -> bytes:
    """Return a value of binary metadata, without padding (PROTOCOL-HTTP2.md of gRPC)."""
    return base64.b64encode(content).rstrip(b"=")
