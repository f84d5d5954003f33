"""Events as CloudEvents 1.0 in JSON (github.com/cloudevents/spec, json-format.md).

| CloudEvents | Event |
|---|---|
| `id`, `type` | `id`, `event_type` (`polku.event` where that is empty: the attribute must not be) |
| `source` | `source`, percent-encoded as a URI reference (`polku` where that is empty) |
| `time` | `timestamp_unix_ns`, RFC 3339 with nanoseconds |
| `data`, `datacontenttype` | typed data as JSON, `dataschema` naming its message; else a JSON payload, byte for byte |
| `data_base64` | any other payload, as `application/octet-stream` |
| `subject`; `dataschema` of a payload | the metadata entries of these names |
| `datacontenttype` of a payload | the metadata entry of this name, else what the payload shows |
| extensions | `severity`, `outcome`, and each other metadata entry under its key reduced to `a-z0-9` |

Of two metadata keys that become one extension the first in alphabetical order wins; a key that would hide an
attribute gets `md` in front.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from polku.emit.json_form import data_fields
from polku.event.v1.event_pb2 import Event
from polku.events import outcome_name, severity_name

ATTRIBUTES = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data", "severity"}
    | {"outcome"}
)
SCHEMA = "polku:"
_KEPT = ("subject", "dataschema", "datacontenttype")
_STARTS = frozenset(b'{["-0123456789tfn \t\r\n')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NOT_ALLOWED = re.compile("[^a-z0-9]")


def cloud_event(event: Event) -> dict[str, Any]:
    """Return an event as the JSON object of a CloudEvent."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": uri_reference(event.source),
        "type": event.event_type or "polku.event",
        "time": _time(event.timestamp_unix_ns),
    }
    metadata = dict(event.metadata)
    kept = {name: metadata.pop(name) for name in _KEPT if metadata.get(name) and _may_keep(name, event)}
    if "subject" in kept:
        fields["subject"] = kept["subject"]
    _add_extensions(fields, event, metadata)
    _add_data(fields, event, kept)
    return fields


_LARGE = 64 * 1024
_RAW = msgspec.json.Decoder(msgspec.Raw).decode


def is_json_type(content_type: str) -> bool:
    """Return whether a media type is JSON: `application/json`, or anything `+json`."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def default_content_type(payload: bytes) -> str:
    """Return the media type that a payload shows by itself."""
    return "application/json" if _is_json(payload) else "application/octet-stream"


def uri_reference(source: str) -> str:
    """Return a source as a URI reference, percent-encoded."""
    has_scheme = _SCHEME.match(source) is not None
    return quote(source, safe="/?@!$&'()*+,;=-._~" + (":#[]" if has_scheme else "")) or "polku"


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:09d}Z"


def _may_keep(name: str, event: Event) -> bool:
    """Return whether a metadata entry can stand as the attribute of its name; typed data has attributes of its own."""
    if name == "subject":
        return True
    typed = event.WhichOneof("data") is not None
    return not typed and (name == "datacontenttype" or not event.metadata[name].startswith(SCHEMA))


def _add_extensions(fields: dict[str, Any], event: Event, metadata: dict[str, str]) -> None:
    if event.severity:
        fields["severity"] = severity_name(event)
    if event.outcome:
        fields["outcome"] = outcome_name(event)
    for key, value in sorted(metadata.items()):
        name = _NOT_ALLOWED.sub("", key.lower())
        name = f"md{name}" if name in ATTRIBUTES else name
        if name and name not in fields:
            fields[name] = value


def _add_data(fields: dict[str, Any], event: Event, kept: dict[str, str]) -> None:
    kind = event.WhichOneof("data")
    if kind is not None:
        fields["datacontenttype"] = "application/json"
        fields["dataschema"] = f"{SCHEMA}{getattr(event, kind).DESCRIPTOR.full_name}"
        fields["data"] = data_fields(event, kind)
        return
    if "dataschema" in kept:
        fields["dataschema"] = kept["dataschema"]
    content_type = kept.get("datacontenttype", "")
    if content_type:
        fields["datacontenttype"] = content_type
    if event.payload:
        if (not content_type or is_json_type(content_type)) and _is_json(event.payload):
            fields["datacontenttype"] = content_type or "application/json"
            fields["data"] = msgspec.Raw(event.payload)  # as it is: decoding would change large and precise numbers
        else:
            fields["datacontenttype"] = content_type or "application/octet-stream"
            fields["data_base64"] = base64.b64encode(event.payload).decode()


def _is_json(payload: bytes) -> bool:
    if not payload or payload[0] not in _STARTS:
        return False
    try:
        text = payload.decode()
        if len(payload) > _LARGE:  # only checked, and not built: 4 MB of small values take 4 ms instead of 70
            _RAW(payload)
        else:
            _DECODE(text)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODE = json.JSONDecoder(parse_constant=_refuse).decode
