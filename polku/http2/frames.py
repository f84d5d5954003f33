"""The frames of HTTP/2 (RFC 9113, sections 4 and 6), as constants and as bytes."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4
HEAD_BYTES: Final = 9

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM: Final = 0x01  # of DATA and HEADERS
ACK: Final = 0x01  # of SETTINGS and PING
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
WITH_PRIORITY: Final = 0x20  # of HEADERS: five bytes of the deprecated priority stand in front of the block

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

INITIAL_WINDOW: Final = 65_535  # bytes, section 6.9.2
SMALLEST_MAX_FRAME: Final = 16_384  # bytes, section 4.2
LARGEST_MAX_FRAME: Final = (1 << 24) - 1
LARGEST_WINDOW: Final = (1 << 31) - 1
STREAM_BITS: Final = (1 << 31) - 1  # the highest bit of a stream identifier is reserved

# Length (two bytes and one), type, flags, stream identifier.
_HEAD = struct.Struct(">HBBBI")
read_head = _HEAD.unpack_from
write_head = _HEAD.pack
_SETTING = struct.Struct(">HI")


class ErrorCode(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class PeerError(Exception):
    """What the peer did ends the connection: GOAWAY with this code and text (section 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamError(Exception):
    """What the peer did ends one stream: RST_STREAM with this code (section 5.4.2)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    size = len(payload)
    return write_head(size >> 8, size & 255, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame (section 6.5)."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings of a SETTINGS frame, whose length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, credit: int) -> bytes:
    """Return a WINDOW_UPDATE frame (section 6.9)."""
    return frame(WINDOW_UPDATE, 0, stream, credit.to_bytes(4, "big"))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """Return an RST_STREAM frame (section 6.4)."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """Return a GOAWAY frame (section 6.8); `last` is the highest stream that was or will be worked on."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode())
