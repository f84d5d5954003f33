"""Numbers of variable length, with which protobuf writes tags, lengths and integers."""

from __future__ import annotations

_SMALL = [bytes((value,)) for value in range(128)]


def varint(value: int) -> bytes:
    """Encode a non-negative integer as a protobuf varint (protobuf.dev/programming-guides/encoding)."""
    if value < 128:
        return _SMALL[value]
    if value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
