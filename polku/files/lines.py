"""Bytes of a growing file as lines, and lines as records; each knows from where to where it stands in the file."""

from __future__ import annotations

import re
from typing import NamedTuple


class Line(NamedTuple):
    """One line, or the lines of one record: bytes `start` to `end` of the file, line breaks included.

    `content` is without the line break at its end. `cut` says that there was more than fits: it is the beginning.
    """

    start: int
    end: int
    content: bytes
    cut: bool = False


class LineSplitter:
    """Cut what is read into lines of `limit` bytes at most; `start` is where in the file the first one begins.

    Of a longer line the beginning is kept. Zero bytes before a line are left out: a program that goes on to write at
    its old position after its file was truncated leaves a hole of them. Empty lines are left out.
    """

    def __init__(self, limit: int, start: int = 0) -> None:
        self.start = self.position = start  # of the line that is not complete, and of what is read next
        self._limit = limit
        self._pending = b""

    def feed(self, data: bytes) -> list[Line]:
        """Take in what stands at `position`; return the lines that are complete."""
        lines: list[Line] = []
        *parts, rest = data.split(b"\n")
        for part in parts:
            self.position += len(part) + 1
            self._take(self._pending + part, lines)
            self._pending = b""
        self.position += len(rest)
        self._keep(rest)
        return lines

    def finish(self) -> list[Line]:
        """Return the last line, which has no line break, if there is one: nothing more will come."""
        lines: list[Line] = []
        self._take(self._pending, lines)
        self._pending = b""
        return lines

    def _keep(self, rest: bytes) -> None:
        """Hold the beginning of a line; one byte too much shows that it is too long, and whether it ended in `\\r`."""
        room = self._limit + 2 - len(self._pending)
        if room > 0:
            self._pending = (self._pending + rest[:room]).lstrip(b"\0")

    def _take(self, content: bytes, lines: list[Line]) -> None:
        content = content.lstrip(b"\0").removesuffix(b"\r")
        cut = len(content) > self._limit
        if content:
            lines.append(Line(self.start, self.position, content[: self._limit] if cut else content, cut))
        self.start = self.position


class Grouper:
    """Join lines to records: each begins at a line in which `begins` is found; without it every line is a record.

    A record that would be longer than `limit` bytes ends before the line that does not fit.
    """

    def __init__(self, begins: re.Pattern[bytes] | None, limit: int) -> None:
        self._begins = begins
        self._limit = limit
        self._lines: list[Line] = []
        self._size = 0

    @property
    def start(self) -> int | None:
        """Where in the file the record begins that is not complete; None where there is none."""
        return self._lines[0].start if self._lines else None

    def add(self, lines: list[Line]) -> list[Line]:
        """Return the records that these lines complete."""
        if self._begins is None:
            return lines
        records: list[Line] = []
        for line in lines:
            if self._begins.search(line.content) or self._size + len(line.content) + 1 > self._limit:
                records += self.flush()
            self._lines.append(line)
            self._size += len(line.content) + 1
        return records

    def flush(self) -> list[Line]:
        """Return the record that is not complete, as it is."""
        if not self._lines:
            return []
        lines, self._lines, self._size = self._lines, [], 0
        content = b"\n".join(line.content for line in lines)
        return [Line(lines[0].start, lines[-1].end, content, any(line.cut for line in lines))]
