"""Records of events that are bytes: for many at once, without decoding an event.

Of each event its type with its metadata, and its payload, are cut out for all of them in a call
(`polku.otlp.projection`). Most payloads begin with the same bytes, the resource and the scope, and behind them stands
the record. What the metadata has that is no attribute of the record is put behind it, unless the record has that key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import compress
from operator import itemgetter
from typing import NamedTuple

from google.protobuf.message import DecodeError

from polku.event.v1.event_pb2 import Event
from polku.otlp.additions import Attribute, attribute_of, attributes_of_resource, stands_in
from polku.otlp.fields import attribute_tag, attributes_in
from polku.otlp.projection import Projection
from polku.otlp.signals import BY_EVENT_TYPE, Signal
from polku.otlp.wire import Head, Unwrapper

_EVENTS, _TYPE, _METADATA, _PAYLOAD = 1, 4, 5, 6  # fields of a payload, and of an event
_RECORDS = 2  # of a scope
_FRONT, _HEAD, _REST = itemgetter(0), itemgetter(1), itemgetter(2)
_FEW = 4  # attributes that are looked for one by one


class Sealed(NamedTuple):
    """The records of each signal, with positions and heads; and the positions of events that are to be decoded."""

    records: dict[Signal, tuple[list[int], list[Head | None], list[bytes]]]
    others: list[int]


class _Kind(NamedTuple):
    """What events of one type and the same metadata have in common: this, as attributes."""

    signal: Signal
    attributes: Sequence[tuple[str, str, Attribute]]


class _New(NamedTuple):
    """Attributes that may be new to a record: those of which a record may have the key, and what all others add.

    The former are a key, the attribute and the field that it is; `every` has the fields of all in their order, and what
    is put behind a record that lacks them.
    """

    perhaps: list[tuple[bytes, bytes, bytes]]
    every: list[tuple[bytes, bytes]]
    surely: bytes


class _Found(NamedTuple):
    """The records of a signal as they came."""

    positions: list[int]
    heads: list[Head | None]
    contents: list[bytes]
    kinds: list[_Kind]


def read_sealed(payload: bytes) -> Sealed:
    """Read a serialised `EventPayload`; events that are no usual log records or spans are left to others."""
    sections, payloads = _metadata().of(payload), _payloads().of(payload)
    known = {section: _kind_of(section) for section in set(sections)}
    kinds = list(map(known.__getitem__, sections))
    signals = {None if kind is None else kind.signal for kind in known.values()}
    unwrapper = Unwrapper(_PAYLOAD)
    others: list[int] = []
    records: dict[Signal, tuple[list[int], list[Head | None], list[bytes]]] = {}
    for signal in signals:
        positions: Sequence[int] = range(len(kinds))
        if len(signals) > 1:
            positions = [at for at, kind in enumerate(kinds) if (kind and kind.signal) == signal]
        if signal is None:
            others += positions
            continue
        found = _Found(list(positions), [], [], [kind for at in positions if (kind := kinds[at]) is not None])
        others += _cut(unwrapper, found, [payloads[at] for at in positions])
        others += _add_new(signal, found)
        if found.positions:
            records[signal] = found[:3]
    return Sealed(records, sorted(others))


def _cut(unwrapper: Unwrapper, found: _Found, payloads: Sequence[bytes]) -> list[int]:
    """Cut heads and records out of payloads, which are fields with their tags; return where that is not possible."""
    fronts: dict[int, tuple[bytes, Head, slice]] = unwrapper.fronts
    sizes = list(map(len, payloads))
    kept = bytearray(b"\1" * len(sizes))
    for size in set(sizes):
        with contextlib.suppress(DecodeError):
            unwrapper.unwrap(payloads[sizes.index(size)])
    known = [fronts.get(size) for size in sizes]
    cuts = [front for front in known if front is not None]
    if len(cuts) == len(sizes) and all(map(bytes.startswith, payloads, map(_FRONT, cuts))):
        found.heads.extend(map(_HEAD, cuts))
        found.contents.extend([payload[rest] for payload, rest in zip(payloads, map(_REST, cuts), strict=True)])
        return []
    for place, payload in enumerate(payloads):
        head, content = None, b""
        try:
            head, content = unwrapper.unwrap(payload)
        except DecodeError:
            kept[place] = 0
        found.heads.append(head)
        found.contents.append(content)
    return _take_out(found, kept)


def _kind_of(section: bytes) -> _Kind | None:
    """Return what type and metadata of an event say; None where it is no log record or span."""
    event = Event.FromString(section)
    signal = BY_EVENT_TYPE.get(event.event_type)
    tag = None if signal is None else attribute_tag(signal)
    if signal is None or tag is None:
        return None
    found = ((key, text, attribute_of(tag, key, text)) for key, text in event.metadata.items())
    return _Kind(signal, [(key, text, attribute) for key, text, attribute in found if attribute is not None])


def _add_new(signal: Signal, found: _Found) -> list[int]:
    """Put behind records what is new in the metadata of their events; take out and return those to be decoded."""
    projection = _attributes(signal)
    try:
        sections = projection.of(projection.framed(found.contents))
    except DecodeError:
        return _take_out(found, bytes(len(found.positions)))
    pairs = list(zip(map(id, found.kinds), map(id, found.heads), strict=True))
    news = _News(signal, b"".join(sections) if len(set(pairs)) <= _FEW else None)
    first = {pair: place for place, pair in reversed(list(enumerate(pairs)))}
    wanted = {pair: news.of(found.kinds[place], found.heads[place]) for pair, place in first.items()}
    added = [_added(signal, one, wanted[pair]) for one, pair in zip(sections, pairs, strict=True)]
    found.contents[:] = [content + (more or b"") for content, more in zip(found.contents, added, strict=True)]
    return _take_out(found, bytes([more is not None for more in added])) if None in added else []


def _take_out(found: _Found, kept: bytes | bytearray) -> list[int]:
    """Take out the records that have a 0; return their positions."""
    positions = [position for position, keep in zip(found.positions, kept, strict=True) if not keep]
    found.positions[:] = compress(found.positions, kept)
    found.heads[:] = compress(found.heads, kept)
    found.contents[:] = compress(found.contents, kept)
    found.kinds[:] = compress(found.kinds, kept)
    return positions


class _News:
    """What of the metadata of events may be new to their records.

    `sections` are the attributes of all records, where what is a key of none is to be looked for once.
    """

    def __init__(self, signal: Signal, sections: bytes | None) -> None:
        self._signal = signal
        self._sections = sections
        self._resources: dict[bytes, Mapping[str, str]] = {}

    def of(self, kind: _Kind, head: Head | None) -> _New | None:
        """Return what may be new to a record; None where its resource is not valid."""
        if not kind.attributes or head is None:
            return _NOTHING
        known = self._resources.get(head.resource)
        if known is None:
            try:
                known = self._resources[head.resource] = attributes_of_resource(self._signal, head.resource)
            except DecodeError:
                return None
        found = _New([], [], b"")
        for key, text, one in kind.attributes:
            more = b"" if known.get(key) == text else one.framed
            found.every.append((one.framed, more))
            if self._sections is not None and one.key not in self._sections:
                found = found._replace(surely=found.surely + more)
            else:
                found.perhaps.append((one.key, one.content, one.framed))
        return found


def _added(signal: Signal, section: bytes, new: _New | None) -> bytes | None:
    """Return what is put behind a record that has a `section` of attributes; None: a value of its own may change."""
    if new is None:
        return None
    perhaps, every, surely = new
    present = set(attributes_in(signal, section)) if len(perhaps) > _FEW else ()
    there: list[bytes] = []
    for key, content, field in perhaps:
        if section.startswith(field) or content in present or (not present and stands_in(section, field)):
            there.append(field)
        elif key in section:  # as a key, or somewhere else
            return None
    if len(there) == len(perhaps):
        return surely
    return b"".join([more for field, more in every if field not in there])


_NOTHING = _New([], [], b"")


@cache
def _metadata() -> Projection:
    return Projection(_EVENTS, _TYPE, _METADATA)


@cache
def _payloads() -> Projection:
    return Projection(_EVENTS, _PAYLOAD)


@cache
def _attributes(signal: Signal) -> Projection:
    return Projection(_RECORDS, attribute_tag(signal) or 0)
