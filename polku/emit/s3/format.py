"""What is inside an object: events as lines of JSON, as length-delimited protobuf, or as a Parquet table."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from polku.batch.varint import varint
from polku.emit.json_form import event_fields
from polku.emit.table import Rows
from polku.event.v1.event_pb2 import Event


class ObjectFormat(StrEnum):
    """Say how events lie in an object."""

    NDJSON = "ndjson"
    """One JSON object a line, which the JsonIngestor reads back."""
    PROTOBUF = "protobuf"
    """Serialised events, each behind its length as a varint (protobuf's `parseDelimitedFrom`)."""
    PARQUET = "parquet"
    """A table: id, timestamp, source, event_type, severity, outcome, metadata, payload, data_type and data (JSON)."""


class Compression(StrEnum):
    """Say how an object is compressed; a Parquet file has it inside."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_SUFFIXES = {ObjectFormat.NDJSON: ".ndjson", ObjectFormat.PROTOBUF: ".pb", ObjectFormat.PARQUET: ".parquet"}
_ENDINGS = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}
CONTENT_TYPES = {
    ObjectFormat.NDJSON: "application/x-ndjson",
    ObjectFormat.PROTOBUF: "application/x-protobuf",
    ObjectFormat.PARQUET: "application/vnd.apache.parquet",
}


class Encoder(Protocol):
    """Take events one by one, then give the object's bytes."""

    def add(self, event: Event, frame: bytes) -> None:
        """Add an event, given as itself and serialised; raises where it cannot be written."""
        ...

    def finish(self) -> bytes:
        """Return the object."""
        ...


def suffix(format: ObjectFormat, compression: Compression) -> str:
    """Return how the names of such objects end."""
    return _SUFFIXES[format] + ("" if format is ObjectFormat.PARQUET else _ENDINGS[compression])


def make_encoder(format: ObjectFormat, compression: Compression) -> Encoder:
    """Make what writes one object."""
    if format is ObjectFormat.PARQUET:
        return _Table(compression)
    return _Lines(_json_line if format is ObjectFormat.NDJSON else _delimited, compression)


class _Lines:
    def __init__(self, form: Callable[[Event, bytes], bytes], compression: Compression) -> None:
        self._form = form
        self._compression = compression
        self._lines: list[bytes] = []

    def add(self, event: Event, frame: bytes) -> None:
        self._lines.append(self._form(event, frame))

    def finish(self) -> bytes:
        return _compress(b"".join(self._lines), self._compression)


class _Table:
    """The rows of a Parquet file."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._rows = Rows()

    def add(self, event: Event, frame: bytes) -> None:
        self._rows.add(event)

    def finish(self) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(self._rows.table(), sink, compression=str(self._compression))
        content: bytes = sink.getvalue().to_pybytes()
        return content


def _json_line(event: Event, frame: bytes) -> bytes:
    import msgspec

    return msgspec.json.encode(event_fields(event)) + b"\n"


def _delimited(event: Event, frame: bytes) -> bytes:
    return varint(len(frame)) + frame


def _compress(data: bytes, compression: Compression) -> bytes:
    if compression is Compression.ZSTD:
        from backports import zstd

        return zstd.compress(data)
    if compression is Compression.GZIP:
        gzip = zlib.compressobj(6, zlib.DEFLATED, 31)  # no time and no name inside: the same events, the same bytes
        return gzip.compress(data) + gzip.flush()
    return data
