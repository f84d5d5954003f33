"""CloudEvents 1.0 (github.com/cloudevents/spec) to events: the inverse of `polku.emit.cloudevents`.

| CloudEvents | Event |
|---|---|
| `id`, `type` | `id`, `event_type` |
| `source` | `source`; percent-encoding is decoded where encoding it again gives the same |
| `time` | `timestamp_unix_ns` |
| `data`, `data_base64`, the body in binary mode | `payload`, byte for byte (text where `data` is not JSON) |
| `data` under a `dataschema` of `polku:polku.event.v1.…` | typed data |
| `severity`, `outcome` | the enums, where they are names or numbers of them |
| `subject`, `dataschema`, all other extensions | `metadata` under the same name |
| `datacontenttype` | `metadata`, unless it is what the payload shows: `application/json`, or octets |
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from polku.emit.cloudevents import ATTRIBUTES, SCHEMA, default_content_type, is_json_type, uri_reference
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.ingest.cloudevents_plain import read_cloudevents
from polku.ingest.json_cut import LARGE
from polku.ingest.json_fields import FieldError, event_from_fields
from polku.ingest.json_plain import Plain, filling_of
from polku.ingest.json_reading import read_records
from polku.ingest.json_record import Members
from polku.ingest.json_split import split_records
from polku.ingest.json_values import expected
from polku.limits import Limits

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"-?[1-9][0-9]{0,9}")
_MEMBERS = Members(left="data", octets="data_base64")
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TYPED: Any = Event.DESCRIPTOR.oneofs_by_name["data"].fields
_KINDS: dict[str, str] = {f"{SCHEMA}{field.message_type.full_name}": field.name for field in _TYPED}
_NAMED = ("specversion", "id", "source", "type", "time")  # what stands in a header of its own in binary mode
_SHORT = 256  # characters of a source that is remembered
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def read_events(data: bytes) -> Iterator[Event | RecordError | None]:
    """Yield an event or an error for each CloudEvent in JSON, and None between slices."""
    return read_records(split_records(data), _event_from_record, _MEMBERS)


def plain_reader(source: str, cluster: str, limits: Limits) -> Callable[[bytes], Plain | None]:
    """Return what reads plain CloudEvents at once; None where any is not, or breaks a limit."""
    filling = filling_of(source, cluster, new_id)
    return partial(read_cloudevents, limits=limits, filling=filling, read=(_source, _time))


def event_from_headers(headers: Mapping[str, str], body: bytes) -> Event:
    """Read a CloudEvent in binary mode from HTTP headers (names in lower case) and body; raises `FieldError`."""
    attributes = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            attributes[name[3:]] = _header_text(name, value)
    attributes.pop("datacontenttype", None)
    if "content-type" in headers and body:
        attributes["datacontenttype"] = headers["content-type"]
    try:
        return _build(attributes, body)
    except FieldError as error:
        if error.field in _NAMED:
            raise FieldError(f"ce-{error.field}", error.value, error.fix) from None
        raise


def _header_text(name: str, value: str) -> str:
    """Return what a header says (CloudEvents' HTTP binding, 3.1.3.2): quotes are taken off, then `%20` is a space."""
    if (quoted := _QUOTED.fullmatch(value)) is not None:
        value = _BACKSLASH.sub(r"\1", quoted[1])
    try:
        return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise FieldError(name, value, "is not UTF-8 once its percent-encoding is decoded; encode UTF-8") from None


def event_from_attributes(attributes: Mapping[str, str], data: bytes) -> Event:
    """Build the event of a CloudEvent's attributes and data; raises `FieldError`."""
    return _build(dict(attributes), data)


def _event_from_record(record: bytes, fields: Any) -> Generator[None, None, Event]:
    if type(fields) is not dict:
        raise expected(fields, "an object: a CloudEvent's attributes by name", "record")
    members = dict(fields)
    data, encoded = members.pop("data", None), members.pop("data_base64", None)
    attributes = {name: _text(name, value) for name, value in members.items() if value is not None}
    content_type = attributes.get("datacontenttype", "")
    if encoded is not None:
        if data is not None:
            raise FieldError("data_base64", encoded, "stands beside 'data'; leave one of them out")
        attributes.setdefault("datacontenttype", "")
        return _build(attributes, _octets(encoded))
    if data is None and not (content_type and "data" in fields):
        return _build(attributes, b"")
    if isinstance(data, msgspec.Raw):
        yield
        if bytes(memoryview(data)[:1]) == b'"' and content_type and not is_json_type(content_type):
            data = msgspec.json.decode(data)
            yield
    if isinstance(data, str) and content_type and not is_json_type(content_type):
        return _build(attributes, data.encode())
    content = bytes(data if isinstance(data, msgspec.Raw) else _RAW.decode(record)["data"])
    return _build({"datacontenttype": "application/json", **attributes}, content, is_json=len(content) > LARGE)


def _build(attributes: dict[str, str], payload: bytes, *, is_json: bool = False) -> Event:
    """Build an event; `is_json`: it is known that the payload is JSON."""
    rest = dict(attributes)
    version = rest.pop("specversion", "")
    if not version:
        raise FieldError("specversion", version, "is missing or empty; CloudEvents require it: '1.0'")
    if version != "1.0":
        raise FieldError("specversion", version, "must be '1.0': other versions of CloudEvents are not read")
    required = {name: rest.pop(name, "") for name in ("id", "source", "type")}
    for name, value in required.items():
        if not value:
            raise FieldError(name, value, "is missing or empty; CloudEvents require it")
    event = Event(id=required["id"], event_type=required["type"], source=_source(required["source"]))
    if time := rest.pop("time", ""):
        event.timestamp_unix_ns = _nanoseconds(time)
    for name in ("severity", "outcome"):
        if name in rest:
            _set_enum(event, name, rest)
    _set_data(event, rest, payload, is_json=is_json)
    for name, value in rest.items():
        hidden = name[2:]
        event.metadata[hidden if name.startswith("md") and hidden in ATTRIBUTES else name] = value
    return event


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise expected(value, "a string, a number, true or false", name)


def _octets(encoded: Any) -> bytes:
    if isinstance(encoded, bytes):  # decoded already, since it is large
        return encoded
    if isinstance(encoded, FieldError):
        raise encoded
    if not isinstance(encoded, str):
        raise expected(encoded, "a string of base64", "data_base64")
    try:
        return b64decode(encoded, validate=True)
    except ValueError as error:
        raise FieldError("data_base64", encoded, f"is not base64 ({error}); encode the bytes as base64") from None


def _source(source: str) -> str:
    return _known_source(source) if len(source) <= _SHORT else _read_source(source)


def _read_source(source: str) -> str:
    plain = unquote(source)
    return plain if uri_reference(plain) == source else source


_known_source = lru_cache(maxsize=1_000)(_read_source)


def _time(text: str) -> int:
    """Return nanoseconds; raises `ValueError`."""
    try:
        return _nanoseconds(text)
    except FieldError as error:
        raise ValueError(str(error)) from None


def _nanoseconds(text: str) -> int:
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        moment = datetime.fromisoformat(f"{match[1].upper()}{match[3].upper().replace('Z', '+00:00')}")
        since = moment - _EPOCH
    except (ValueError, OverflowError):
        raise FieldError("time", text, "is no time; write it as '2024-05-01T12:00:00.123Z' (RFC 3339)") from None
    nanoseconds = (since.days * 86_400 + since.seconds) * 1_000_000_000 + int((match[2] or "").ljust(9, "0")[:9])
    if not -(2**63) <= nanoseconds < 2**63:
        raise FieldError("time", text, "is out of range; it must lie between the years 1678 and 2262")
    return nanoseconds


def _set_enum(event: Event, name: str, rest: dict[str, str]) -> None:
    value = rest[name]
    number = int(value) if _NUMBER.fullmatch(value) else value
    try:
        setattr(event, name, getattr(event_from_fields({name: number}), name))
    except FieldError:
        return  # somebody else's extension of that name: it is metadata
    if getattr(event, name):
        rest.pop(name)


def _set_data(event: Event, rest: dict[str, str], payload: bytes, *, is_json: bool) -> None:
    content_type = rest.get("datacontenttype", "")
    kind = _KINDS.get(rest.get("dataschema", "")) if is_json_type(content_type) else None
    if kind is None:
        event.payload = payload
        if payload and content_type in ("", "application/json" if is_json else default_content_type(payload)):
            rest.pop("datacontenttype", None)
        return
    if len(payload) > LARGE:
        fix = f"has {len(payload)} bytes, the most is {LARGE} for the fields of {kind}"
        raise FieldError("data", payload[:20].decode("utf-8", "replace"), fix)
    try:
        typed = event_from_fields({kind: msgspec.json.decode(payload)})
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FieldError("data", payload[:60], f"is not JSON ({error}); send the fields of {kind}") from None
    getattr(event, kind).CopyFrom(getattr(typed, kind))
    del rest["dataschema"], rest["datacontenttype"]
