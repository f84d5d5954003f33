"""How a call ends (gRPC's status codes and the header fields that carry them)."""

from __future__ import annotations

import base64
from enum import IntEnum
from typing import NamedTuple

from polku.gateway.retry import retry_metadata
from polku.http2.header_blocks import literal
from polku.text import line

_MESSAGE = 1_000  # characters: clients take 8 KiB of trailers
_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}


class StatusCode(IntEnum):
    """The status codes of gRPC that a gateway answers with."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Status(NamedTuple):
    """A code, a sentence for people, and metadata that goes with them."""

    code: int
    message: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    retry_seconds: float | None = None


class CallError(Exception):
    """Ends a call with a status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


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
        block += literal(b"grpc-message", _percent_encoded(message))
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


def _percent_encoded(text: str) -> bytes:
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in text.encode())
