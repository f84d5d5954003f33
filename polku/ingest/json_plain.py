"""Read many records of JSON at once where they are plain: fields that are set as they come, and no mistakes.

A decoder that knows the fields, and how long each may be, checks them in C; what it finds is written as the bytes of
events, without an object for each. Measured for events of 230 bytes with three entries of metadata, µs an event: to
decode 0.7, to write the bytes 1.9, to parse those into events 0.4; to set the fields of an event of each takes 3, and
protobuf's constructor 2.1, of which 1.8 are the metadata, without an id for the answer. Whatever the decoder does not
take, and whatever may be wrong, is left to `json_record`, which says what is wrong, and where: so what is read here is
exactly what is read there.

The bytes are written as text whose characters are bytes: with ASCII a character is a byte, and `latin-1` encodes the
lengths between. Texts that are not ASCII are turned into such text first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from polku.event.v1.event_pb2 import Event
from polku.ingest.plain_bytes import ANY_SIZES, SIZES, Sizes, entry, entry_size, number, raw_text, text_field
from polku.limits import Limits
from polku.v1.gateway_pb2 import EventPayload

_MOST_BYTES = 256 * 1024  # that are read at once
_MOST_OBJECTS = 2_000  # of which the metadata of an event is one: three milliseconds
_LOW, _HIGH = -(2**63), 2**63 - 1
_FIELDS = 7
_CLUSTER = "cluster"


class Filling(NamedTuple):
    """What events get that lack it: an id from `new_id`, the time that it is now, a source, a cluster.

    The last two stand here as the bytes of fields, as text; empty, an event stays without. See `filling_of`.
    """

    source: str
    cluster: str
    new_id: Callable[[], str]


@lru_cache(64)
def filling_of(source: str, cluster: str, new_id: Callable[[], str]) -> Filling:
    """Return what events get that lack a source, or a cluster."""
    source_field = text_field("\x1a", raw_text(source)) if source else ""
    return Filling(source_field, entry(_CLUSTER, raw_text(cluster)) if cluster else "", new_id)


_NOTHING = Filling("", "", str)


class Plain(Struct, frozen=True):
    """Events as a serialised `EventPayload`, and their ids; `routed`: some have a `route_to`."""

    payload: bytes
    ids: list[str]
    routed: bool


_Decoders = dict[tuple[bytes, bool], Callable[[bytes], Any]]
"""What decodes data that begins with an opening bracket, and is ASCII or not."""


def read_array(data: bytes) -> list[Event] | None:
    """Return the events of an array of plain records, or None."""
    return _events(_read(data, b"[", None, _NOTHING, ""))


def read_lines(data: bytes) -> list[Event] | None:
    """Return the events of lines that are plain records, or None."""
    return _events(_read_lines(data, None, _NOTHING, ""))


def read_filled(data: bytes, limits: Limits, filling: Filling, *, by_line: bool) -> Plain | None:
    """Return the events of plain records that keep all limits on their texts, with what they lack; None for others.

    `data` is an object or an array, or has an object on each line.
    """
    now = f"\x10{number(time.time_ns())}"
    return _read_lines(data, limits, filling, now) if by_line else _read(data, data[:1], limits, filling, now)


def _events(plain: Plain | None) -> list[Event] | None:
    return None if plain is None else list(EventPayload.FromString(plain.payload).events)


def _read_lines(data: bytes, limits: Limits | None, filling: Filling, now: str) -> Plain | None:
    body = data.removesuffix(b"\n")
    ends = body.count(b"\n")
    if len(data) > _MOST_BYTES or body.count(b"}\n{") != ends:
        return None
    plain = _read(b"[" + body.replace(b"\n", b",") + b"]", b"[", limits, filling, now)
    return plain if plain is not None and len(plain.ids) == ends + 1 else None


def _read(data: bytes, opening: bytes, limits: Limits | None, filling: Filling, now: str) -> Plain | None:
    if len(data) > _MOST_BYTES or data.count(b"{") > _MOST_OBJECTS:
        return None
    is_ascii = data.isascii() and (b"\\" not in data or b"\\u" not in data)  # one byte is searched ten times faster
    try:
        decoded = _decoders_of(limits)[opening, is_ascii](data)
        records: Sequence[Any] = decoded if opening == b"[" else [decoded]
        given = None if is_ascii else _turn_into_bytes(records)
        plain, names = _write(records, filling, now)
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
        return None
    # A name that appears twice is counted once. It has a colon and four quotes more, as texts may have, too.
    if data.count(b":") != names and data.count(b'"') != 2 * (names + _count_texts(records)):
        return None
    if given is not None:
        plain = replace(plain, ids=[one or made for one, made in zip(given, plain.ids, strict=True)])
    return plain


_LATEST: list[tuple[Limits | None, _Decoders]] = []  # one: to look limits up by their values takes 2 µs


def _decoders_of(limits: Limits | None) -> _Decoders:
    for latest, decoders in _LATEST:
        if latest is limits:
            return decoders
    decoders = _decoders(limits)
    _LATEST[:] = [(limits, decoders)]
    return decoders


@lru_cache(8)
def _decoders(limits: Limits | None) -> _Decoders:
    """Return what decodes plain records; where all is ASCII a character is a byte, else it may be four."""
    found: _Decoders = {}
    for is_ascii in (True, False):
        kind = _record(limits, 1 if is_ascii else 4)
        found[b"{", is_ascii] = msgspec.json.Decoder(kind).decode
        found[b"[", is_ascii] = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
    return found


def _record(limits: Limits | None, character: int) -> Any:
    def text(limit: str, least: int = 0) -> Any:
        most = None if limits is None else getattr(limits, limit) // character
        return Annotated[str, Meta(min_length=least, max_length=most)]

    def some(kind: Any, limit: str) -> Any:
        return kind if limits is None else Annotated[kind, Meta(max_length=getattr(limits, limit))]

    metadata: Any = dict[text("metadata_key_bytes"), text("metadata_value_bytes")]  # type: ignore[misc]
    routes: Any = list[text("route_bytes")]  # type: ignore[misc]
    fields = {
        "id": text("id_bytes", 1),
        "timestamp_unix_ns": Annotated[int, Meta(ge=_LOW, le=_HIGH)],
        "source": text("source_bytes"),
        "event_type": text("event_type_bytes"),
        "metadata": some(metadata, "metadata_entries"),
        "payload": bytes,
        "route_to": some(routes, "routes"),
    }
    # One that is UNSET does not stand in its record, and null means absent.
    members = [(name, kind | UnsetType | None, UNSET) for name, kind in fields.items()]
    return msgspec.defstruct("PlainEvent", members, forbid_unknown_fields=True, gc=False)


def _write(records: Sequence[Any], filling: Filling, now: str) -> tuple[Plain, int]:
    """Return the events, and how many names stand in the records."""
    try:
        return _write_all(records, filling, now, SIZES)
    except IndexError:  # something is longer than most
        return _write_all(records, filling, now, ANY_SIZES)


def _write_all(records: Sequence[Any], filling: Filling, now: str, sizes: Sizes) -> tuple[Plain, int]:
    ids: list[str] = []
    parts: list[str] = []
    absent, inner, routed, unset = 0, 0, False, UNSET
    no_source, no_cluster, new_id = filling
    for record in records:
        event_id, when, source, kind = record.id, record.timestamp_unix_ns, record.source, record.event_type
        metadata, payload, routes = record.metadata, record.payload, record.route_to
        absent += 1 if event_id is unset else 0  # a tuple's `count` takes 0.2 µs more
        absent += 1 if when is unset else 0
        absent += 1 if source is unset else 0
        absent += 1 if kind is unset else 0
        absent += 1 if metadata is unset else 0
        absent += 1 if payload is unset else 0
        absent += 1 if routes is unset else 0
        event_id = event_id or new_id()
        ids.append(event_id)
        text = f"\n{sizes[len(event_id)]}{event_id}" if event_id else ""
        text += f"\x10{number(when)}" if when else now
        text += f"\x1a{sizes[len(source)]}{source}" if source else no_source
        if kind:
            text += f'"{sizes[len(kind)]}{kind}'
        if metadata:
            inner += len(metadata)
            text += _entries(metadata, sizes)
            if no_cluster and _CLUSTER not in metadata:
                text += no_cluster
        else:
            text += no_cluster
        if payload:
            text += f"2{sizes[len(payload)]}{payload.decode('latin-1')}"
        if routes:
            text += "".join([text_field(":", name) for name in routes])
            routed = True
        parts.append(f"\n{sizes[len(text)]}{text}")
    return Plain("".join(parts).encode("latin-1"), ids, routed), _FIELDS * len(ids) - absent + inner


def _entries(metadata: Mapping[str, str], sizes: Sizes) -> str:
    text = ""
    for key, value in metadata.items():
        first, second = len(key), len(value)
        size = first + second + 4 if first | second < 128 else entry_size(first, second)
        text += f"*{sizes[size]}\n{sizes[first]}{key}\x12{sizes[second]}{value}"
    return text


def _turn_into_bytes(records: Iterable[Any]) -> list[str]:
    """Make each text one whose characters are its bytes; return the ids as they were."""
    ids = [record.id or "" for record in records]
    for record in records:
        for name in ("id", "source", "event_type"):
            if value := getattr(record, name):
                setattr(record, name, raw_text(value))
        if record.metadata:
            record.metadata = {raw_text(key): raw_text(value) for key, value in record.metadata.items()}
        if record.route_to:
            record.route_to = list(map(raw_text, record.route_to))
    return ids


def _count_texts(records: Iterable[Any]) -> int:
    """Count the texts that are values in records."""
    count = 0
    for record in records:
        own = (record.id, record.source, record.event_type, record.payload)
        count += sum(1 for text in own if text is not UNSET and text is not None)
        count += len(record.metadata or ()) + len(record.route_to or ())
    return count
