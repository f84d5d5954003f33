"""The fields of a Kafka record, as the reserved metadata of the event that it became.

| metadata | the record's |
|---|---|
| `kafka.key` | key, as text; `kafka.key.base64` where it is no UTF-8; neither where the record has none |
| `kafka.topic`, `kafka.partition`, `kafka.offset` | place |
| `kafka.timestamp` | timestamp, in milliseconds since 1970; `kafka.timestamp.type` is `append` where brokers set it |
| `kafka.headers` | headers in their order, as JSON: `[["a", "text"], ["a", null], ["b", {"base64": "/w=="}]]` |
| `kafka.tombstone` | `true` where it has no value |

A `KafkaEmitter` without `key=` uses the key again, and sends no value where `kafka.tombstone` is `true`; with
`value="record"` it uses headers, timestamp and partition too.
"""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import TypeAlias

import msgspec

from polku.event.v1.event_pb2 import Event

KEY = "kafka.key"
KEY_BASE64 = "kafka.key.base64"
TOPIC = "kafka.topic"
PARTITION = "kafka.partition"
OFFSET = "kafka.offset"
TIMESTAMP = "kafka.timestamp"
TIMESTAMP_TYPE = "kafka.timestamp.type"
HEADERS = "kafka.headers"
TOMBSTONE = "kafka.tombstone"
RESERVED = (KEY, KEY_BASE64, TOPIC, PARTITION, OFFSET, TIMESTAMP, TIMESTAMP_TYPE, HEADERS, TOMBSTONE)
MAX_KEY_BYTES = 8 * 1024  # in base64 as well below what an event's metadata may have

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Field(StrEnum):
    """Name a field of a record that may become metadata."""

    KEY = "key"
    TOPIC = "topic"
    PARTITION = "partition"
    OFFSET = "offset"
    TIMESTAMP = "timestamp"
    HEADERS = "headers"


class _Base64(msgspec.Struct):
    base64: str


_DECODE = msgspec.json.Decoder(list[tuple[str, str | _Base64 | None]]).decode
_ENCODE = msgspec.json.Encoder().encode


def key_metadata(key: bytes) -> dict[str, str]:
    """Return a record's key as metadata."""
    try:
        return {KEY: key.decode()}
    except UnicodeDecodeError:
        return {KEY_BASE64: base64.b64encode(key).decode()}


def read_key(event: Event) -> bytes | None:
    """Return the key that an event came with, None where it came with none; raises `ValueError` for wrong base64."""
    metadata = event.metadata
    if KEY in metadata:
        return metadata[KEY].encode()
    if KEY_BASE64 not in metadata:
        return None
    return decode_base64(KEY_BASE64, metadata[KEY_BASE64])


def headers_text(headers: Headers) -> str:
    """Return a record's headers as the text of `kafka.headers`."""
    return _ENCODE([(name, value if value is None else _header_value(value)) for name, value in headers]).decode()


def read_headers(event: Event) -> Headers:
    """Return the headers that an event came with, none where it came with none; raises `ValueError` for others."""
    text = event.metadata.get(HEADERS)
    return decode_headers(text) if text else []


def decode_headers(text: str | bytes) -> Headers:
    """Return the headers of the text of `kafka.headers`; raises `ValueError` where that is another."""
    try:
        pairs = _DECODE(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"metadata {HEADERS!r} is no list of headers ({error})") from None
    return [(name, value.encode() if type(value) is str else _header_bytes(value)) for name, value in pairs]


def read_number(event: Event, name: str) -> int | None:
    """Return the metadata `name` as a number, None where the event lacks it; raises `ValueError` for what is none."""
    text = event.metadata.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"metadata {name!r} is no whole number") from None


def _header_value(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _header_bytes(value: str | _Base64 | None) -> bytes | None:
    return (
        decode_base64(HEADERS, value.base64)
        if isinstance(value, _Base64)
        else None
        if value is None
        else value.encode()
    )


def decode_base64(name: str, text: str) -> bytes:
    """Return what the metadata `name` has in base64; raises `ValueError` where it has not."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one
        raise ValueError(f"metadata {name!r} is no base64 ({error})") from None
