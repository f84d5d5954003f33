"""Attributes (`KeyValue`) as they travel: the usual ones, short texts, are read and written without decoding them.

    0a <size> key 12 <size> 0a <size> text

is how every writer of protobuf puts a text of up to 125 bytes under a key of up to 127; anything else is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from polku.otlp.signals import load
from polku.otlp.values import as_text
from polku.otlp.wire import tagged

_KEY, _VALUE, _STRING = 0x0A, 0x12, 0x0A
_ENTRY = 5  # the field of an entry of an event's metadata
_FRAME = 6  # bytes of a short attribute beside its key and its text


def key_of(content: bytes) -> bytes | None:
    """Return the key of an attribute that is a short key and one value; None where it has to be decoded."""
    if len(content) < 2 or content[0] != _KEY or (size := content[1]) > 127:
        return None
    end = size + 4
    if len(content) <= end or content[end - 2] != _VALUE:
        return None
    length = content[end - 1]
    if length > 127:
        length, end = length & 127 | content[end] << 7, end + 1
    return content[2 : 2 + size] if end + length == len(content) else None


def short_text(content: bytes, key_size: int) -> bytes | None:
    """Return the text of an attribute whose `key_of` has this size; None where it has to be decoded."""
    start = key_size + _FRAME
    size = len(content) - start
    if not 0 < size <= 125 or content[start - 4] != _VALUE or content[start - 3] != size + 2:
        return None
    return content[start:] if content[start - 2] == _STRING and content[start - 1] == size else None


def short_entry(content: bytes, key_size: int) -> bytes:
    """Return the entry of metadata of an attribute that has a `short_text`."""
    return tagged(_ENTRY, len(content) - 2) + content[: 3 + key_size] + content[5 + key_size :]


def decode(content: bytes, most: int | None = None) -> tuple[str, str | None]:
    """Return key and value of any attribute as text; raises protobuf's `DecodeError`.

    Of a value that is no text, and takes more than `most` bytes, there is none: representing it may cost much.
    """
    found = load("opentelemetry.proto.common.v1.common_pb2").KeyValue.FromString(content)
    value = found.value
    if most is not None and not value.string_value and value.ByteSize() > most:
        return found.key, None
    return found.key, value.string_value or as_text(value)


def find(attributes: Sequence[bytes], key: str) -> str | None:
    """Return the value of a key as text, the last one where it stands several times; None where it does not.

    Raises protobuf's `DecodeError`.
    """
    name = key.encode()
    for content in reversed(attributes):
        known = key_of(content)
        if known is None or known == name:
            found, text = decode(content)
            if found == key:
                return text
    return None


def write(key: str, text: str) -> bytes:
    """Return an attribute whose value is a text."""
    return _written(key, text) if len(key) + len(text) < 200 else _encoded(key, text)


@lru_cache(4_096)
def _written(key: str, text: str) -> bytes:
    return _encoded(key, text)


def _encoded(key: str, text: str) -> bytes:
    made: Any = load("opentelemetry.proto.common.v1.common_pb2").KeyValue(key=key)
    made.value.string_value = text
    return bytes(made.SerializeToString())
