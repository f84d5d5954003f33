"""Events as CloudEvents 1.0 in JSON (github.com/cloudevents/spec, json-format.md).

| CloudEvents | Event |
|---|---|
| `id`, `type` | `id`, `event_type` (`polku.event` where that is empty: the attribute must not be) |
| `source` | `source`, percent-encoded as a URI reference (`polku` where that is empty) |
| `time` | `timestamp_unix_ns`, RFC 3339 with nanoseconds; left out where a calendar has no such year |
| `data`, `datacontenttype` | typed data as JSON with `dataschema` naming its message; else a payload that is JSON |
| `data_base64` | any other payload, as `application/octet-stream` |
| extensions | `severity`, `outcome`, and each metadata entry under its key reduced to `a-z0-9` |

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

from polku.emit.json_form import data_fields
from polku.event.v1.event_pb2 import Event
from polku.events import outcome_name, severity_name

_ATTRIBUTES = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data", "severity"}
    | {"outcome"}
)
_NOT_ALLOWED = re.compile("[^a-z0-9]")


def cloud_event(event: Event) -> dict[str, Any]:
    """Return an event as the JSON object of a CloudEvent."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": quote(event.source, safe="/:?#[]@!$&'()*+,;=-._~") or "polku",
        "type": event.event_type or "polku.event",
    }
    time = _time(event.timestamp_unix_ns)
    if time:
        fields["time"] = time
    _add_extensions(fields, event)
    _add_data(fields, event)
    return fields


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"
    except (OverflowError, ValueError, OSError):
        return ""


def _add_extensions(fields: dict[str, Any], event: Event) -> None:
    if event.severity:
        fields["severity"] = severity_name(event)
    if event.outcome:
        fields["outcome"] = outcome_name(event)
    for key, value in sorted(event.metadata.items()):
        name = _NOT_ALLOWED.sub("", key.lower())
        name = f"md{name}" if name in _ATTRIBUTES else name
        if name and name not in fields:
            fields[name] = value


def _add_data(fields: dict[str, Any], event: Event) -> None:
    kind = event.WhichOneof("data")
    if kind is not None:
        fields["datacontenttype"] = "application/json"
        fields["dataschema"] = f"polku:{getattr(event, kind).DESCRIPTOR.full_name}"
        fields["data"] = data_fields(event, kind)
    elif event.payload:
        try:
            fields["data"] = json.loads(event.payload, parse_constant=_refuse)
            fields["datacontenttype"] = "application/json"
        except (ValueError, RecursionError):
            fields["data_base64"] = base64.b64encode(event.payload).decode()
            fields["datacontenttype"] = "application/octet-stream"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
