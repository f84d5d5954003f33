"""Serialised events, field by field: what POLKU writes itself instead of building a message for each event.

Field numbers are those of `Event`. An entry of its metadata is a message with a key (1) and a value (2).
"""

from __future__ import annotations

from polku.batch.varint import varint

ID, TIME, SOURCE, TYPE, METADATA, PAYLOAD = b"\x0a", b"\x10", b"\x1a", b"\x22", b"\x2a", b"\x32"
TABLED = 4096
"""Lengths below this have their heads in tables."""


def text(tag: bytes, value: bytes) -> bytes:
    """Return a field of text or bytes."""
    return tag + varint(len(value)) + value


def name_field(key: bytes) -> bytes:
    """Return how an entry of metadata of this name begins, after its tag and length; its value follows."""
    return text(b"\x0a", key) + b"\x12"


class EntryName:
    """The name of an entry of metadata, with what stands in front of values up to a length."""

    def __init__(self, name: str) -> None:
        self._name = name_field(name.encode())
        self._heads = [
            entry(self._name, b"x" * size)[:-size] if size else entry(self._name, b"") for size in range(100)
        ]

    def entry(self, value: bytes) -> bytes:
        """Return the entry of this name that has a value."""
        size = len(value)
        return self._heads[size] + value if size < 100 else entry(self._name, value)


def entry(name: bytes, value: bytes) -> bytes:
    """Return an entry of metadata; `name` is its `name_field`."""
    size = len(value)
    length = varint(size)
    return b"".join((METADATA, varint(len(name) + len(length) + size), name, length, value))


EVENT_HEADS = [b"\x0a" + varint(size) for size in range(TABLED)]
"""What stands in front of an event of that many bytes in an `EventPayload`."""

PAYLOAD_HEADS = [PAYLOAD + varint(size) for size in range(TABLED)]
"""What stands in front of a payload of that many bytes in an event."""


def event_head(size: int) -> bytes:
    """Return what stands in front of an event of any size in an `EventPayload`."""
    return EVENT_HEADS[size] if size < TABLED else b"\x0a" + varint(size)


def payload_head(size: int) -> bytes:
    """Return what stands in front of a payload of any size in an event."""
    return PAYLOAD_HEADS[size] if size < TABLED else PAYLOAD + varint(size)
