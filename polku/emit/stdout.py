"""Print events, for people who debug and for programs in a pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit import console
from polku.emit.encode import write_each
from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event
from polku.events import severity_name


class Format(StrEnum):
    """Say how an event is printed."""

    JSON = "json"
    """One JSON object a line, which the JsonIngestor reads back."""
    COMPACT = "compact"
    """One short line for people."""
    PRETTY = "pretty"
    """Indented JSON."""


class StdoutStatistics(Struct, frozen=True):
    """Count what was printed."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StdoutEmitter:
    """Print events to the standard output of the program that runs the pipeline; nothing else is printed there.

    A reader that does not read holds events back for as long as it takes. One that went away holds them too, with
    an alarm: the lines that it did not read are not lost while the pipeline runs.
    """

    format: Format | str = Format.JSON
    name: str = field(default="stdout", kw_only=True)

    writes_to_console = True
    may_recover = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", checks.choice("StdoutEmitter", "format", self.format, Format))

    def build(self, clock: Clock) -> _Printer:
        """Make the running emitter."""
        return _Printer(Format(self.format))


class _Printer:
    indivisible = True  # a text whose writing was begun can only be waited for

    def __init__(self, format: Format) -> None:
        self._line = {Format.JSON: _json_line, Format.COMPACT: _compact_line, Format.PRETTY: _pretty}[format]
        self._events = self._bytes = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        lines = write_each(batch.events, self._line)
        text = b"".join(lines.contents)
        await console.current().write(text)
        self._events += len(lines.contents)
        self._bytes += len(text)
        return lines.failures

    def statistics(self) -> StdoutStatistics:
        return StdoutStatistics(self._events, self._bytes)


def _json_line(event: Event) -> bytes:
    return msgspec.json.encode(event_fields(event)) + b"\n"


def _pretty(event: Event) -> bytes:
    return msgspec.json.format(msgspec.json.encode(event_fields(event)), indent=2) + b"\n"


def _compact_line(event: Event) -> bytes:
    seconds, nanos = divmod(event.timestamp_unix_ns, 1_000_000_000)
    when = f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{nanos // 1_000_000:03d}Z"
    metadata = " ".join(f"{key}={value}" for key, value in sorted(event.metadata.items()))
    size = f" {len(event.payload)}B" if event.payload else ""
    line = f"{when} {severity_name(event):<8} {event.source} {event.event_type} {event.id}{size} {metadata}"
    return line.rstrip().translate(_CONTROLS).encode() + b"\n"


# What a terminal would obey, or take for the end of the line.
_CONTROLS = {number: f"\\x{number:02x}" for number in [*range(32), *range(127, 160)]} | {0x2028: "\\u2028"}
