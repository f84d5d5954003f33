"""Fields of protobuf's wire format as text whose characters are bytes (`latin-1`): to join text is what is fast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_KNOWN = 1_024
_LOW_BITS = 28


def varint(value: int) -> str:
    """Return a number that is not negative as a varint (protobuf's encoding, "Base 128 Varints")."""
    text = ""
    while value > 127:
        text += chr(value & 127 | 128)
        value >>= 7
    return text + chr(value)


class _AnySizes:
    def __getitem__(self, size: int) -> str:
        return varint(size)


Sizes = Sequence[str] | _AnySizes
SIZES = tuple(map(varint, range(_KNOWN)))
"""The varints of small sizes: a quarter of the time that a look into a dict takes; `IndexError` for others."""
ANY_SIZES = _AnySizes()
"""The same for any size."""


def number(value: int) -> str:
    """Return an int64 as a varint: what times of one quarter of a second have in common is kept."""
    if value < 0:
        return varint(value + (1 << 64))
    if value < 1 << _LOW_BITS:
        return varint(value)
    more = _MORE
    low = f"{more[value & 127]}{more[value >> 7 & 127]}{more[value >> 14 & 127]}{more[value >> 21 & 127]}"
    return low + _high(value >> _LOW_BITS)


_MORE = tuple(chr(bits | 128) for bits in range(128))  # a byte behind which others come
_high = lru_cache(64)(varint)


def raw_text(text: str) -> str:
    """Return the text whose characters are the bytes of a text in UTF-8."""
    return text if text.isascii() else text.encode().decode("latin-1")


def text_field(tag: str, text: str) -> str:
    """Return a field that is a string, or bytes; all characters of it are bytes."""
    return f"{tag}{varint(len(text))}{text}"


def entry_size(key: int, value: int) -> int:
    """Return how many bytes an entry of metadata has behind its own size, by the sizes of its two texts."""
    return key + value + (4 if key | value < 128 else len(varint(key)) + len(varint(value)) + 2)


def entry(key: str, value: str) -> str:
    """Return an entry of an event's metadata; all characters of it are bytes."""
    return text_field("*", text_field("\n", key) + text_field("\x12", value))
