"""Values of attributes and bodies (`AnyValue`) as text, and text as values."""

from __future__ import annotations

import base64
from typing import Any

import msgspec


def as_text(value: Any) -> str:
    """Return an `AnyValue` as text, as OpenTelemetry's specification represents it outside of OTLP: text as it is,
    bytes as base64, anything else as JSON.
    """
    which = value.WhichOneof("value")
    if which == "string_value":
        text: str = value.string_value
        return text
    if which is None:
        return ""
    if which == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return msgspec.json.encode(as_python(value)).decode()


def as_python(value: Any) -> Any:
    """Return an `AnyValue` as a value of JSON."""
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [as_python(one) for one in value.array_value.values]
    if which == "kvlist_value":
        return {one.key: as_python(one.value) for one in value.kvlist_value.values}
    if which == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, which)
