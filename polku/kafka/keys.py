"""The key of a record, as the metadata of the event that it became: kept from a `KafkaSource` to a `KafkaEmitter`."""

from __future__ import annotations

import base64
import binascii

from polku.event.v1.event_pb2 import Event

KEY = "kafka.key"
"""The key as text."""
KEY_BASE64 = "kafka.key.base64"
"""A key that is no UTF-8, in base64."""
RESERVED = (KEY, KEY_BASE64)
MAX_KEY_BYTES = 8 * 1024  # in base64 as well below what an event's metadata may have


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
    try:
        return base64.b64decode(metadata[KEY_BASE64], validate=True)
    except binascii.Error as error:
        raise ValueError(f"metadata {KEY_BASE64!r} is no base64 ({error})") from None
