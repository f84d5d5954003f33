"""An event as a row: what each column gets.

| column | gets |
|---|---|
| `"{timestamp}"` | the event's time, as a timestamp with time zone |
| `"{payload}"` | the payload, as bytes |
| `"{metadata}"` | all metadata, as JSON |
| `"{event}"` | the whole event as JSON, as the JsonIngestor reads it |
| a template | text; NULL where the event lacks one of its fields |
| a function | what it returns: a text, a number, bytes, a time, a dict or list (as JSON), or None |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from polku import checks
from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event
from polku.kafka.template import AbsentError, compile_template

Column: TypeAlias = "str | Callable[[Event], Any]"
COLUMNS: Mapping[str, Column] = {
    "id": "{id}",
    "time": "{timestamp}",
    "type": "{event_type}",
    "source": "{source}",
    "severity": "{severity}",
    "metadata": "{metadata}",
    "payload": "{payload}",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def row_writer(columns: Mapping[str, Column]) -> Callable[[Event], tuple[Any, ...]]:
    """Return the function that makes an event's row; raises `PlanError` for a template that names no field."""
    makers = [_maker(name, column) for name, column in columns.items()]

    def write(event: Event) -> tuple[Any, ...]:
        return tuple(make(event) for make in makers)

    return write


def _maker(name: str, column: Column) -> Callable[[Event], Any]:
    if not isinstance(column, str):
        checks.function("PostgresEmitter", f"columns[{name}]", column, sync=True)
        function = column
        return lambda event: _value(function(event))
    if column in _WHOLE:
        return _WHOLE[column]
    fill = compile_template("PostgresEmitter", f"columns[{name}]", column)

    def text(event: Event) -> str | None:
        try:
            return str(fill(event))
        except AbsentError:
            return None

    return text


def _value(value: Any) -> Any:
    return _json(value) if isinstance(value, (dict, list)) else value


def _time(event: Event) -> datetime:
    return _EPOCH + timedelta(microseconds=event.timestamp_unix_ns // 1_000)


def _json(value: Any) -> Any:
    import msgspec
    from psycopg.types.json import Jsonb

    return Jsonb(value, dumps=msgspec.json.encode)


_WHOLE: dict[str, Callable[[Event], Any]] = {
    "{timestamp}": _time,
    "{payload}": lambda event: event.payload,
    "{metadata}": lambda event: _json(dict(event.metadata)),
    "{event}": lambda event: _json(event_fields(event)),
}
