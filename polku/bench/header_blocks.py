"""As much of HPACK (RFC 7541) as a caller of one gRPC method needs: its own headers, and the status in the answer."""

from __future__ import annotations


def _packed(text: str) -> bytes:
    """Return a text in HPACK's code, filled up with ones."""
    bits = "".join(_CODES[character] for character in text)
    size = -(-len(bits) // 8)
    return bytes((0x80 | size,)) + int(bits.ljust(size * 8, "1"), 2).to_bytes(size, "big")


# Of HPACK's code (RFC 7541, appendix B) what `grpc-status` and its numbers need.
_CODES = {"g": "100110", "r": "101100", "p": "101011", "c": "00100", "-": "010110", "s": "01000", "t": "01001"}
_CODES |= {"a": "00011", "u": "101101", "0": "00000", "1": "00001", "2": "00010"}
_CODES |= {str(digit): f"{0b011001 + digit - 3:06b}" for digit in range(3, 10)}
_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_STATUS_NAMES = (b"\x0bgrpc-status", _packed("grpc-status"))
_STATUSES = {
    value: name
    for number, name in enumerate(_NAMES)
    for value in (bytes((len(str(number)),)) + str(number).encode(), _packed(str(number)))
}


def read_status(block: bytes) -> str:
    """Find `grpc-status` in encoded headers: a server that was told to keep no table spells it out."""
    for name in _STATUS_NAMES:
        _, found, value = block.partition(name)
        if found and value:
            return _STATUSES.get(value[: 1 + (value[0] & 0x7F)], "UNKNOWN")
    return "UNKNOWN"


def request_headers(authority: str, method: str) -> bytes:
    """Encode the headers of a call: by number where the static table has them, else as plain text (RFC 7541)."""

    def text(value: str) -> bytes:
        data = value.encode()
        if len(data) > 126:
            raise ValueError(f"{value!r} is longer than 126 bytes")
        return bytes((len(data),)) + data

    fields = [b"\x83\x86", b"\x04" + text(method), b"\x01" + text(authority)]
    fields += [b"\x0f\x10" + text("application/grpc"), b"\x00" + text("te") + text("trailers")]
    return b"".join(fields)
