"""Control frames of a peer, checked (RFC 9113, sections 6.3 to 6.9). Everything here raises `PeerError`."""

from __future__ import annotations

import struct

from polku.http2 import frames as f
from polku.http2.frames import ErrorCode, PeerError

_U32 = struct.Struct(">I").unpack_from
_PRIORITY_BYTES = 5


def read_settings(flags: int, number: int, payload: memoryview) -> list[tuple[int, int]] | None:
    """Return the settings that the peer wants; None: it acknowledges ours (section 6.5)."""
    if number:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
    if len(payload) % 6 or (flags & f.ACK and payload):
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    if flags & f.ACK:
        return None
    values = f.read_settings(bytes(payload))
    for key, value in values:
        if key == f.INITIAL_WINDOW_SIZE and value > f.LARGEST_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {value} bytes")
        if key == f.MAX_FRAME_SIZE and not f.SMALLEST_MAX_FRAME <= value <= f.LARGEST_MAX_FRAME:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value} bytes")
        if key == f.ENABLE_PUSH and value > 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH of {value}")
    return values


def read_credit(payload: memoryview) -> int:
    """Return the bytes of a WINDOW_UPDATE (section 6.9)."""
    if len(payload) != 4:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
    credit: int = _U32(payload)[0] & f.LARGEST_WINDOW
    return credit


def check_ping(number: int, payload: memoryview) -> None:
    """Check a PING (section 6.7)."""
    if number:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
    if len(payload) != 8:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")


def check_rst_stream(number: int, payload: memoryview) -> None:
    """Check an RST_STREAM (section 6.4)."""
    if number == 0:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on no stream")
    if len(payload) != 4:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")


def read_code(payload: memoryview, at: int = 0) -> int:
    """Return the error code of an RST_STREAM, or at byte 4 of a GOAWAY."""
    code: int = _U32(payload, at)[0]
    return code


def read_last(payload: memoryview) -> int:
    """Return the highest stream that the sender of a GOAWAY has worked on, or will."""
    last: int = _U32(payload)[0] & f.STREAM_BITS
    return last


def check_priority(number: int, payload: memoryview) -> None:
    """Check a PRIORITY, which is then ignored (section 6.3)."""
    if number == 0:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
    if len(payload) != _PRIORITY_BYTES:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
    _check_dependency(number, payload)


def check_goaway(number: int, payload: memoryview) -> None:
    """Check a GOAWAY (section 6.8)."""
    if number:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
    if len(payload) < 8:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")


def header_block(flags: int, number: int, payload: memoryview) -> memoryview:
    """Return the header block of a HEADERS frame, without padding and priority (section 6.2)."""
    if not number & 1:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that no client has opened")
    if flags & f.PADDED:
        payload = without_padding(payload)
    if flags & f.WITH_PRIORITY:
        if len(payload) < _PRIORITY_BYTES:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for its priority")
        _check_dependency(number, payload)
        payload = payload[_PRIORITY_BYTES:]
    return payload


def without_padding(payload: memoryview) -> memoryview:
    """Return a payload without its padding (section 6.1)."""
    if not payload or payload[0] >= len(payload):
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _check_dependency(number: int, payload: memoryview) -> None:
    if _U32(payload)[0] & f.STREAM_BITS == number:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
