"""When a client may send again what was refused: gRPC's pushback and `google.rpc.RetryInfo`, HTTP's `Retry-After`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from polku.batch.varint import varint
from polku.codes import Code

RETRY_SECONDS: Final = {Code.BUFFER_FULL: 0.1, Code.RATE_LIMITED: 1.0, Code.UNAVAILABLE: 5.0, Code.DRAINING: 5.0}
"""The pause after each code for which sending again may help."""
_DETAIL_BYTES = 1_000  # of a message that is repeated in the details: clients take 8 KiB of headers
_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def retry_metadata(status: int, message: str, seconds: float) -> Iterable[tuple[str, str | bytes]]:
    """Return the trailers that tell a client of gRPC how many seconds to wait.

    The second is a `google.rpc.Status`: status and message of the call, as clients check, and a `RetryInfo`.
    """
    yield "grpc-retry-pushback-ms", f"{round(seconds * 1000)}"
    text = message.encode()
    if len(text) <= _DETAIL_BYTES:
        yield "grpc-status-details-bin", _status(status, text, seconds)


def _status(status: int, message: bytes, seconds: float) -> bytes:
    whole, part = divmod(round(seconds * 1e9), 1_000_000_000)
    duration = b"\x08" + varint(whole) + b"\x10" + varint(part)
    detail = _field(1, _RETRY_INFO) + _field(2, _field(1, duration))
    return b"\x08" + varint(status) + _field(2, message) + _field(3, detail)


def _field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf that has a length."""
    return bytes((number << 3 | 2,)) + varint(len(content)) + content
