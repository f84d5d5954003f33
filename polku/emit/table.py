"""Events as the rows of an Arrow table: what Parquet files, windows and datasets have of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict

from polku.emit.json_form import data_fields
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.events import outcome_name, severity_name

if TYPE_CHECKING:
    import pyarrow as pa


class Rows:
    """Rows that become a table: `id`, `timestamp` (UTC), `source`, `event_type`, `severity`, `outcome`, `metadata`
    (a map), `payload` (bytes), and `data_type` and `data` (as JSON) of typed data. Needs pyarrow.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []

    def add(self, event: Event) -> None:
        """Add a row; raises what the event's JSON form raises."""
        import msgspec

        kind = event.WhichOneof("data")
        data = None if kind is None else msgspec.json.encode(data_fields(event, kind)).decode()
        self._rows.append(
            (
                event.id,
                event.timestamp_unix_ns,
                event.source,
                event.event_type,
                severity_name(event),
                outcome_name(event),
                list(event.metadata.items()),
                event.payload,
                kind,
                data,
            )
        )

    def table(self) -> pa.Table:
        """Return the table."""
        import pyarrow as pa

        schema = table_schema()
        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[] for _ in schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema)


def table_schema() -> pa.Schema:
    """Return the names and types of the columns."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            ("id", text),
            ("timestamp", pa.timestamp("ns", "UTC")),
            ("source", text),
            ("event_type", text),
            ("severity", text),
            ("outcome", text),
            ("metadata", pa.map_(text, text)),
            ("payload", pa.binary()),
            ("data_type", text),
            ("data", text),
        ]
    )


def event_of(row: Mapping[str, Any]) -> Event:
    """Return the event of a row with the columns of a table, each but `event_type` may be missing or None.

    `timestamp` is a `datetime` or Unix nanoseconds, `payload` bytes or text, `metadata` a mapping or pairs. Raises
    `RecordError` for a column that no event has, and for a value that it cannot have.
    """
    event = Event()
    for name, value in row.items():
        if value is None:
            continue
        try:
            _set(event, name, value, row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"column {name!r}: {error}") from error
    if not event.event_type:
        raise RecordError("there is no event_type")
    return event


def _set(event: Event, name: str, value: Any, row: Mapping[str, Any]) -> None:
    match name:
        case "id" | "source" | "event_type":
            setattr(event, name, value)
        case "timestamp":
            event.timestamp_unix_ns = _nanoseconds(value)
        case "severity":
            event.severity = Severity.Value(f"SEVERITY_{value.upper()}")
        case "outcome":
            event.outcome = Outcome.Value(f"OUTCOME_{value.upper()}")
        case "metadata":
            for key, text in value.items() if isinstance(value, Mapping) else value:
                event.metadata[key] = text
        case "payload":
            event.payload = value.encode() if isinstance(value, str) else bytes(value)
        case "data":
            ParseDict(json.loads(value), getattr(event, row["data_type"]))
        case "data_type" | "waits_for":
            pass
        case _:
            raise KeyError("an event has no such column; give event=, a function that makes the event of a row")


def _nanoseconds(value: Any) -> int:
    if hasattr(value, "value"):  # pandas.Timestamp, which is a datetime without its nanoseconds
        return int(value.value)
    if isinstance(value, datetime):
        return int(value.timestamp()) * 1_000_000_000 + value.microsecond * 1_000
    return int(value)
