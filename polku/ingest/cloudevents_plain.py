"""Read many CloudEvents of JSON at once where they are plain: attributes that are texts, no mistakes.

Their attributes may have any names, so that no decoder knows them: one decodes all, and another one finds the bytes of
the data, which are the payload. Whatever else may be in them, and whatever may be wrong, is left to `cloudevents`: so
what is read here is exactly what is read there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from polku.emit.cloudevents import ATTRIBUTES, SCHEMA, is_json_type
from polku.ingest.cloudevents_shapes import Read, Shapes
from polku.ingest.json_plain import Filling, Plain
from polku.ingest.plain_bytes import ANY_SIZES, SIZES, Sizes, entry_size, number, raw_text
from polku.limits import Limits

_MOST_BYTES = 128 * 1024  # that are read at once: three milliseconds
_OCTETS = "application/octet-stream"
_JSON = ("", "application/json")  # what the bytes of data show by themselves
# What is more than metadata: fields of the Event, bytes, and names that hide one of these.
_UNUSUAL = frozenset({"data_base64", "severity", "outcome", *(f"md{name}" for name in ATTRIBUTES)})


class _Holder(msgspec.Struct, gc=False):
    """The data of a CloudEvent."""

    data: msgspec.Raw = msgspec.Raw(b"")


_SHAPES = Shapes()
_ONE, _MANY = msgspec.json.Decoder(dict[str, Any]).decode, msgspec.json.Decoder(list[dict[str, Any]]).decode
_DATA, _ALL_DATA = msgspec.json.Decoder(_Holder).decode, msgspec.json.Decoder(list[_Holder]).decode


class _NotPlainError(Exception):
    """Say that the CloudEvents are to be read one by one."""


def read_cloudevents(data: bytes, limits: Limits, filling: Filling, read: Read) -> Plain | None:
    """Return the events of plain CloudEvents that keep all limits on their texts; None for others."""
    if len(data) > _MOST_BYTES:
        return None
    if (plain := _SHAPES.read(data, limits, filling, read)) is not None:
        return plain
    try:
        if data[:1] == b"[":
            events, holders = _MANY(data), _ALL_DATA(data)
        else:
            events, holders = [_ONE(data)], [_DATA(data)]
        ids = [event.pop("id", None) for event in events]
        try:
            parts = _write(events, ids, holders, limits, filling, read, SIZES)
        except IndexError:  # something is longer than most: from the beginning, since attributes are gone
            events = _MANY(data) if data[:1] == b"[" else [_ONE(data)]
            ids = [event.pop("id", None) for event in events]
            parts = _write(events, ids, holders, limits, filling, read, ANY_SIZES)
    except (msgspec.MsgspecError, ValueError, RecursionError, _NotPlainError):
        return None
    _SHAPES.learn(events, limits)
    return Plain("".join(parts).encode("latin-1"), ids, routed=False)


def _write(
    events: Sequence[dict[str, Any]],
    ids: Sequence[Any],
    holders: Sequence[_Holder],
    limits: Limits,
    filling: Filling,
    read: Read,
    sizes: Sizes,
) -> list[str]:
    parts = []
    read_source, read_time = read
    now, no_cluster = f"\x10{number(time.time_ns())}", filling.cluster
    most_id, most_source, most_kind = limits.id_bytes, limits.source_bytes, limits.event_type_bytes
    for event, event_id, holder in zip(events, ids, holders, strict=True):
        source, kind, when = event.pop("source", None), event.pop("type", None), event.pop("time", None)
        if event.pop("specversion", None) != "1.0" or not _UNUSUAL.isdisjoint(event):
            raise _NotPlainError
        if not (type(event_id) is type(source) is type(kind) is str and event_id and source and kind):
            raise _NotPlainError
        payload = _payload(event, holder)
        event_id, source, kind = raw_text(event_id), raw_text(read_source(source)), raw_text(kind)
        if len(event_id) > most_id or len(source) > most_source or len(kind) > most_kind or not source:
            raise _NotPlainError
        if when is None or when == "":
            moment = now
        elif type(when) is str:
            moment = f"\x10{number(read_time(when))}"
        else:
            raise _NotPlainError
        text = f'\n{sizes[len(event_id)]}{event_id}{moment}\x1a{sizes[len(source)]}{source}"{sizes[len(kind)]}{kind}'
        if event:
            text += _entries(event, limits, sizes)
        if no_cluster and "cluster" not in event:
            text += no_cluster
        if payload:
            text += f"2{sizes[len(payload)]}{payload.decode('latin-1')}"
        parts.append(f"\n{sizes[len(text)]}{text}")
    return parts


def _payload(event: dict[str, Any], holder: _Holder) -> bytes:
    """Take the data out of a CloudEvent, and the type of it where that is what the bytes show by themselves."""
    schema, content_type = event.get("dataschema", ""), event.get("datacontenttype", "")
    if type(schema) is not str or type(content_type) is not str or schema.startswith(SCHEMA):
        raise _NotPlainError
    if "data" not in event:
        return b""
    data = event.pop("data")
    if data is None:
        raise _NotPlainError
    if type(data) is str and content_type and not is_json_type(content_type):
        if content_type == _OCTETS:
            raise _NotPlainError
        return data.encode()
    if content_type in _JSON:
        event.pop("datacontenttype", None)
    return bytes(holder.data)


def _entries(attributes: Mapping[str, Any], limits: Limits, sizes: Sizes) -> str:
    """Return the metadata that other attributes become."""
    if len(attributes) > limits.metadata_entries:
        raise _NotPlainError
    most_key, most_value = limits.metadata_key_bytes, limits.metadata_value_bytes
    text = ""
    for key, value in attributes.items():
        if type(value) is not str:
            raise _NotPlainError
        if not (key.isascii() and value.isascii()):
            key, value = raw_text(key), raw_text(value)
        first, second = len(key), len(value)
        if first > most_key or second > most_value:
            raise _NotPlainError
        text += f"*{sizes[entry_size(first, second)]}\n{sizes[first]}{key}\x12{sizes[second]}{value}"
    return text
