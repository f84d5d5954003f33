"""The table of `polku top`, as wide and as high as a terminal has room for."""

from __future__ import annotations

import textwrap

from polku.cli.top_view import Row
from polku.text import duration

_COUNTS = ("IN", "IN/S", "OUT", "OUT/S", "BYTES", "BYTES/S", "ERRORS", "DROPPED", "WAITING", "OLDEST")
_TITLES = ("PART", *_COUNTS, "RETRIES", "NEXT", "CIRCUIT", "RESTARTS", "CPU", "MEMORY", "STATE")
_STATE_COLUMNS = 24  # that the last column has at least, where others can go for it
_LEAST = ("BYTES", "BYTES/S", "IN", "OUT", "RETRIES", "RESTARTS", "MEMORY", "CPU", "NEXT", "CIRCUIT")  # goes first


def table(rows: list[Row], before: dict[str, Row], interval: float, width: int | None = None) -> list[str]:
    """Return the lines: without columns that nobody fills, and without the least important ones where it is narrow."""
    if not rows:
        return ["no part is like that"]
    lines = [_TITLES, *(_cells(row, before.get(row.part, row), interval) for row in rows)]
    shown = [column for column in range(len(_TITLES)) if any(cells[column] for cells in lines[1:])]
    shown = _that_fit(lines, shown, width) if width is not None else shown
    cut = [tuple(cells[column] for column in shown) for cells in lines]
    widths = [max(len(cells[column]) for cells in cut) for column in range(len(shown) - 1)]
    return [_aligned(cells, widths)[:width] for cells in cut]


def _that_fit(lines: list[tuple[str, ...]], shown: list[int], width: int) -> list[int]:
    """Return the columns that a line of that width has room for, besides some of the state."""
    needs = {column: max(len(cells[column]) for cells in lines) + 2 for column in shown}
    needs[shown[-1]] = min(needs[shown[-1]], _STATE_COLUMNS)
    for column in map(_TITLES.index, _LEAST):
        if sum(needs.values()) <= width:
            break
        needs.pop(column, None)
    return list(needs)


def fit(head: list[str], body: list[str], foot: list[str], width: int, height: int) -> list[str]:
    """Return the lines that a terminal has room for: the head, wrapped, and the foot, and as many of the body."""
    above = [line for text in head for line in _wrapped(text, width) or [""]]
    room = max(2, height - len(above) - len(foot) - 1)
    if len(body) > room:
        body = [*body[: room - 1], f"and {len(body) - room + 1} more: / filters, u shows what is unhealthy"[:width]]
    return [*above, *body, *(text[:width] for text in foot)]


def _wrapped(text: str, width: int) -> list[str]:
    indent = " " * (len(text) - len(text.lstrip(" ")))
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _cells(row: Row, old: Row, interval: float) -> tuple[str, ...]:
    cpu = _rate(row.cpu_seconds, old.cpu_seconds, interval)
    return (
        row.part,
        _text(row.received),
        _text(_rate(row.received, old.received, interval)),
        _text(row.sent),
        _text(_rate(row.sent, old.sent, interval)),
        _size(row.bytes),
        _size(_rate(row.bytes, old.bytes, interval)),
        _text(row.errors),
        _text(row.dropped),
        _text(row.waiting),
        "" if row.oldest_seconds is None else f"{row.oldest_seconds:.1f} s",
        _text(row.retries),
        duration(again) if round(again := row.next_attempt_seconds or 0.0) else "",
        "" if row.circuit in (None, "closed") else str(row.circuit).replace("_", " "),
        _text(row.restarts),
        "" if cpu is None else f"{cpu:.0%}",
        "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:,.0f} MB",
        row.state,
    )


def _rate(now: float | None, before: float | None, interval: float) -> float | None:
    """Return how much a counter went up each second; 0 where it has begun again."""
    return None if now is None else max(0.0, now - (before or 0)) / interval


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def _size(number: float | None) -> str:
    if number is None:
        return ""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers, cells[-1]])
