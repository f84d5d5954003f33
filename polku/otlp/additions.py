"""What a step has added to an event's metadata, as attributes of its record.

A record is decoded only where a value of its own is replaced; what is new is put behind its other fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from polku.otlp.attributes import find, write
from polku.otlp.fields import attributes_in
from polku.otlp.metadata import KEPT_APART, OWN
from polku.otlp.signals import METRICS, Signal
from polku.otlp.values import as_text
from polku.otlp.wire import tagged

_SHORT = 200  # characters of an entry of metadata that is remembered
_SKIPPED = 64  # fields of a record
_VARINT, _LENGTH_DELIMITED, _FIXED = 0, 2, {1: 8, 5: 4}  # how fields are written, and the bytes of fixed ones


def with_new(signal: Signal, tag: int, content: bytes, metadata: Mapping[str, str], known: Mapping[str, str]) -> bytes:
    """Return a log record or span with what is new in the metadata of its event; it is decoded only to replace."""
    attributes: list[bytes] | None = None
    added = b""
    for key in metadata:  # half the time of asking the map for its items
        if key in OWN:
            continue
        text = metadata[key]
        attribute = attribute_of(tag, key, text)
        if attribute is None or stands_in(content, attribute.framed):
            continue
        if attribute.key in content:  # as a key, or somewhere else
            if attributes is None:
                attributes = attributes_in(signal, content)
            if attribute.content in attributes:
                continue
            found = find(attributes, key)
            if found is not None:
                if found == text:
                    continue
                every = {key: metadata[key] for key in metadata if is_attribute(key)}
                return with_attributes(signal, content, every, known)
        if known.get(key) != text:
            added += attribute.framed
    return content + added if added else content


def attributes_of_resource(signal: Signal, head: bytes) -> dict[str, str]:
    """Return the attributes of a resource as text; raises `DecodeError`."""
    kind = {"logs": "ResourceLogs", "traces": "ResourceSpans", "metrics": "ResourceMetrics"}[signal.name]
    attributes = getattr(signal.messages, kind).FromString(head).resource.attributes
    return {one.key: as_text(one.value) for one in attributes}


class Attribute(NamedTuple):
    """An entry of metadata as an attribute: its key, itself, and itself as a field of a record."""

    key: bytes
    content: bytes
    framed: bytes


def attribute_of(tag: int, key: str, text: str) -> Attribute | None:
    """Return the attribute of an entry; None where it becomes none."""
    return _known_attribute(tag, key, text) if len(key) + len(text) < _SHORT else _make_attribute(tag, key, text)


def _make_attribute(tag: int, key: str, text: str) -> Attribute | None:
    if not is_attribute(key):
        return None
    content = write(key, text)
    return Attribute(key.encode(), content, tagged(tag, len(content)) + content)


_known_attribute = lru_cache(4_096)(_make_attribute)


def stands_in(record: bytes, field: bytes) -> bool:
    """Return whether a record has a field among those that stand first: False where that is not found at once.

    The same bytes may stand inside another field; so the fields before them are skipped one by one.
    """
    place = record.find(field)
    at = 0
    try:
        for _ in range(_SKIPPED):
            if at >= place:
                return at == place
            tag, at = record[at], at + 1
            kind = tag & 7
            if tag > 127:
                return False
            if kind == _LENGTH_DELIMITED:
                size, at = record[at], at + 1
                if size > 127:
                    size, at = size & 127 | record[at] << 7, at + 1
                    if record[at - 1] > 127:
                        return False
                at += size
            elif kind == _VARINT:
                while record[at] > 127:
                    at += 1
                at += 1
            else:
                at += _FIXED[kind]
    except (IndexError, KeyError):  # it is not valid, or has groups: that is not for here
        pass
    return False


def is_attribute(key: str) -> bool:
    """Return whether metadata of this name is an attribute on the way out."""
    return key not in OWN and not key.startswith(KEPT_APART)


def with_attributes(signal: Signal, content: bytes, metadata: Mapping[str, str], known: Mapping[str, str]) -> bytes:
    """Return a record with those entries of the metadata that neither it nor its resource has; the same where none is.

    The attributes of a metric are those of each of its data points.
    """
    name = {"logs": "LogRecord", "traces": "Span", "metrics": "Metric"}[signal.name]
    record = getattr(signal.messages, name).FromString(content)
    changed = False
    for holder in _holders(signal, record):
        own = {one.key: one for one in holder.attributes}
        # Keys should be unique, and need not be: an entry that any of them says is nothing new.
        said = {(one.key, as_text(one.value)) for one in holder.attributes if one.key in metadata}
        new = {
            key: value
            for key, value in metadata.items()
            if ((key, value) not in said if key in own else known.get(key) != value)
        }
        if new:
            changed = True
            _set_attributes(holder, own, new)
    return bytes(record.SerializeToString()) if changed else content


def _holders(signal: Signal, record: Any) -> Iterable[Any]:
    if signal is not METRICS:
        return (record,)
    which = record.WhichOneof("data")
    points: Iterable[Any] = getattr(record, which).data_points if which else ()
    return points


def _set_attributes(holder: Any, own: Mapping[str, Any], new: Mapping[str, str]) -> None:
    for key, value in new.items():
        if key in own:
            own[key].value.string_value = value
        else:
            holder.attributes.add(key=key).value.string_value = value
