"""How a call ends: gRPC's status codes, and how its sentence travels (PROTOCOL-HTTP2.md of gRPC)."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}


class StatusCode(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Status(Struct, frozen=True):
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


def percent_encoded(text: str) -> bytes:
    """Return a value of `grpc-message`."""
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in text.encode())


def percent_decoded(value: bytes) -> str:
    """Return the text of a `grpc-message`; what is not UTF-8 is replaced."""
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(value).decode("utf-8", "replace")
