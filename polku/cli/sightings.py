"""How `polku tap` prints what happened to an event: for people, or for programs."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from polku.text import line

_PART = 28  # columns for its name, at least
_PAYLOAD = 80  # characters of a payload that people see


def as_text(seen: Mapping[str, Any]) -> str:
    """Return a line for people: when, where, what happened, and the event."""
    event = seen.get("event", {})
    fields = [event.get("event_type", ""), line(seen["id"]), *_labels(event)]
    where = f"{line(seen['part']):<{_PART}}  {seen['what']:<7}"
    text = f"{_clock(seen['time_unix_ns'])}  {where}  {' '.join(map(line, fields))}"
    if why := ": ".join(filter(None, (seen.get("code", ""), seen.get("reason", "")))):
        text += f"  ({line(why)})"
    if payload := _payload(seen):
        text += f"  {payload}"
    return text


def as_logfmt(seen: Mapping[str, Any]) -> str:
    """Return `key=value` pairs."""
    event = seen.get("event", {})
    pairs = {
        "time": datetime.fromtimestamp(seen["time_unix_ns"] / 1e9, UTC).isoformat(),
        **{name: seen.get(name) for name in ("part", "what", "code", "reason", "id")},
        **{name: event.get(name) for name in ("source", "event_type", "severity", "payload")},
        **{f"metadata.{key}": value for key, value in event.get("metadata", {}).items()},
    }
    return " ".join(f"{line(key)}={_quoted(value)}" for key, value in pairs.items() if value)


def _labels(event: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(event.get("metadata", {}).items())]


def _payload(seen: Mapping[str, Any]) -> str:
    if left_out := seen.get("payload_bytes_left_out"):
        return f"[{left_out} bytes]"
    data = b64decode(seen.get("event", {}).get("payload", ""))
    try:
        return line(data[: 4 * _PAYLOAD].decode(), _PAYLOAD)
    except UnicodeDecodeError:
        return f"[{len(data)} bytes]"


def _clock(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _quoted(value: object) -> str:
    text = line(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ' "=') else text


Formats = Callable[[Mapping[str, Any]], str]
FORMATS: dict[str, Formats] = {"text": as_text, "json": json.dumps, "logfmt": as_logfmt}
