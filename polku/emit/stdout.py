"""Print events, for people who debug and for programs in a pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from polku.batch import Batch
from polku.clock import Clock
from polku.emit import console
from polku.emit.json_form import event_fields
from polku.errors import PlanError
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


@dataclass(frozen=True, slots=True)
class StdoutEmitter:
    """Print events to the standard output of the program that runs the pipeline; nothing else is printed there."""

    format: Format | str = Format.JSON
    name: str = field(default="stdout", kw_only=True)

    writes_to_console = True

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "format", Format(self.format))
        except ValueError:
            names = ", ".join(repr(str(known)) for known in Format)
            raise PlanError(f"format={self.format!r} is not known; choose {names}", where="StdoutEmitter") from None

    def build(self, clock: Clock) -> _Printer:
        """Make the running emitter."""
        return _Printer(Format(self.format))


class _Printer:
    def __init__(self, format: Format) -> None:
        self._line = {Format.JSON: _json_line, Format.COMPACT: _compact_line, Format.PRETTY: _pretty}[format]

    async def emit(self, batch: Batch) -> None:
        await console.current().write(b"".join(map(self._line, batch)))


def _json_line(event: Event) -> bytes:
    return msgspec.json.encode(event_fields(event)) + b"\n"


def _pretty(event: Event) -> bytes:
    return msgspec.json.format(msgspec.json.encode(event_fields(event)), indent=2) + b"\n"


def _compact_line(event: Event) -> bytes:
    seconds, nanos = divmod(event.timestamp_unix_ns, 1_000_000_000)
    try:
        when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{nanos // 1_000_000:03d}Z"
    except (OverflowError, ValueError, OSError):
        when = str(event.timestamp_unix_ns)
    metadata = " ".join(f"{key}={value}" for key, value in sorted(event.metadata.items()))
    size = f" {len(event.payload)}B" if event.payload else ""
    line = f"{when} {severity_name(event):<8} {event.source} {event.event_type} {event.id}{size} {metadata}"
    return line.rstrip().translate(_CONTROLS).encode() + b"\n"


_CONTROLS = {number: f"\\x{number:02x}" for number in [*range(32), 127]}
