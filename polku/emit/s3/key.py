"""The names of objects: a template of text, times and fields of events, in which no event can choose its folder.

A value becomes one piece of a path segment: every byte but letters, digits and `_ - = @ .` is percent-encoded (RFC
3986, 2.1), and so are the dots of a value of dots only. What an event lacks, or what makes a name too long, refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from polku import checks
from polku.errors import RejectedError
from polku.event.v1.event_pb2 import Event
from polku.events import outcome_name, severity_name

BATCH = "\0"  # stands for the batch's identity in a group's name; no name has one otherwise
BATCH_LENGTH = 40
MAX_KEY = 1024  # bytes of a key: S3, GCS and Azure alike

_FIELD = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9_\-=@.+,:/ ]*")
_METADATA = "metadata."
_MINUTE = 60_000_000_000

_FIELDS: dict[str, Callable[[Event], str]] = {
    "source": lambda event: event.source,
    "type": lambda event: event.event_type,
    "event_type": lambda event: event.event_type,
    "id": lambda event: event.id,
    "severity": severity_name,
    "outcome": outcome_name,
}
_TIMES = {
    "date": "%Y-%m-%d",
    "year": "%Y",
    "month": "%m",
    "day": "%d",
    "hour": "%H",
    "minute": "%M",
}


class _Piece(NamedTuple):
    """A field of the template: how to read it, and what stands for it where it is empty (None: nothing can)."""

    name: str
    read: Callable[[Event], str]
    default: str | None


class KeyTemplate:
    """Make names from events, such as `{source}/{date}/{hour}/{batch}`.

    `suffix` will be added to them, `max_segment` bounds what is between two slashes, in bytes.
    """

    def __init__(self, template: str, *, suffix: str = "", prefix_bytes: int = 0, max_segment: int = MAX_KEY) -> None:
        self.template = template
        self._limit = MAX_KEY - prefix_bytes - BATCH_LENGTH - len(suffix)
        self._segment_limit = max_segment - len(suffix)
        self._texts: list[str] = []
        self._pieces: list[_Piece] = []
        self._parse()
        self._readers = [piece.read for piece in self._pieces]
        self._known: dict[tuple[int | str, ...], str] = {}

    def group(self, event: Event) -> str:
        """Return the event's name, with `BATCH` in the place of the batch; raises `RejectedError`."""
        minute = event.timestamp_unix_ns // _MINUTE if self._times else 0
        values = [read(event) for read in self._readers]
        known: tuple[int | str, ...] = (minute, *values)
        name = self._known.get(known)
        if name is None:
            name = self._render(minute, values)
            if len(self._known) >= 4096:
                self._known.clear()
            self._known[known] = name
        return name

    def _parse(self) -> None:
        position = 0
        self._order: list[tuple[str, int]] = []  # which list, and where in it
        self._times: list[str] = []
        batches = 0
        for found in _FIELD.finditer(self.template):
            self._literal(self.template[position : found.start()])
            position = found.end()
            name, bar, default = found[1].partition("|")
            if name == "batch" and not bar:
                batches += 1
                self._order.append(("batch", 0))
            elif name in _TIMES and not bar:
                self._order.append(("time", len(self._times)))
                self._times.append(name)
            else:
                self._order.append(("field", len(self._pieces)))
                self._pieces.append(_Piece(name, self._reader(name), default if bar else None))
        self._literal(self.template[position:])
        if batches != 1:
            raise _fault(self.template, "must contain {batch} once: by it a retry overwrites what it wrote before")
        shape = "".join(text if kind == "text" else "x" for kind, text in self._shape())
        if any(segment in ("", ".", "..") for segment in shape.split("/")):
            raise _fault(self.template, "must not begin or end with '/', nor contain '//', '.' or '..' as a folder")
        if len(self.template) > MAX_KEY // 2:
            raise _fault(self.template, f"must have at most {MAX_KEY // 2} characters")

    def _shape(self) -> list[tuple[str, str]]:
        return [(kind, self._texts[index] if kind == "text" else "") for kind, index in self._order]

    def _literal(self, text: str) -> None:
        if not text:
            return
        if not _LITERAL.fullmatch(text):
            fix = "text between fields may have letters, digits, spaces and _-=@.+,:/; write fields as {source}"
            raise _fault(self.template, fix)
        self._order.append(("text", len(self._texts)))
        self._texts.append(text)

    def _reader(self, name: str) -> Callable[[Event], str]:
        if name.startswith(_METADATA) and len(name) > len(_METADATA):
            key = name.removeprefix(_METADATA)
            return lambda event: event.metadata.get(key, "")
        if name not in _FIELDS:
            known = ", ".join(f"{{{field}}}" for field in (*_FIELDS, "metadata.NAME", *_TIMES, "batch"))
            raise _fault(self.template, f"{{{name}}} is no field; known are {known}")
        return _FIELDS[name]

    def _render(self, minute: int, values: Sequence[str]) -> str:
        when = datetime.fromtimestamp(minute * 60, UTC)
        parts = []
        for kind, index in self._order:
            if kind == "text":
                parts.append(self._texts[index])
            elif kind == "batch":
                parts.append(BATCH)
            elif kind == "time":
                parts.append(_format(when, self._times[index]))
            else:
                parts.append(escape(self._value(self._pieces[index], values[index])))
        name = "".join(parts)
        if len(name) - 1 > self._limit:
            largest = max(zip(self._pieces, values, strict=False), key=lambda pair: len(pair[1]))
            raise RejectedError(
                f"the object's key would have {len(name) - 1 + MAX_KEY - self._limit} bytes, {MAX_KEY} is the most: "
                f"{{{largest[0].name}}} has {len(largest[1])} characters"
            )
        for segment in name.split("/"):
            length = len(segment) + (BATCH_LENGTH - 1 if BATCH in segment else 0)
            if length > self._segment_limit:
                raise RejectedError(
                    f"a part of the object's key would have {length} bytes, {self._segment_limit} is the most there: "
                    f"{checks.shorten(segment)}"
                )
        return name

    def _value(self, piece: _Piece, value: str) -> str:
        if value:
            return value
        if piece.default:
            return piece.default
        raise RejectedError(
            f"key={self.template!r}: the event has no {piece.name}; give the template a default: {{{piece.name}|none}}"
        )


def escape(value: str) -> str:
    """Return a value as a piece of a path segment."""
    if not value.strip("."):
        return value.replace(".", "%2E")
    return quote(value, safe="=@").replace("~", "%7E")


def _format(when: datetime, name: str) -> str:
    return f"{when.year:04d}" if name == "year" else when.strftime(_TIMES[name])


def _fault(template: str, fix: str) -> Exception:
    return checks.fault("S3Emitter", "key", template, fix)
