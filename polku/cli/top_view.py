"""What `polku top` shows of the parts of a pipeline: which rows, in which order."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from polku.tap.request import matches


class Row(NamedTuple):
    """One part, or process: events in and out since its start, failed, waiting, the oldest one's age in seconds.

    `bytes` are the size of what the ingest and the buffer took in, and of what an emitter was given.

    `dropped` are events that an emitter's rule for a full share of the buffer dropped. `holds_up` says why the part
    holds up what comes in; `advice` is what is to be done where something is wrong, and `command` what to type.

    `retries` are calls of a destination that tried again, and the next one is in `next_attempt_seconds`; `restarts`,
    `cpu_seconds` and `memory_bytes` are of a process that is the part's alone. What a part does not have is None.
    """

    part: str
    well: bool
    state: str
    received: int | None = None
    sent: int | None = None
    errors: int | None = None
    waiting: int | None = None
    oldest_seconds: float | None = None
    retries: int | None = None
    restarts: int | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    circuit: str | None = None
    bytes: int | None = None
    dropped: int | None = None
    holds_up: str = ""
    advice: str = ""
    command: str = ""
    next_attempt_seconds: float | None = None


class Order(Enum):
    """What rows are sorted by."""

    STATE = "state"
    PART = "part"
    IN = "in"
    OUT = "out"
    BYTES = "bytes"
    ERRORS = "errors"
    DROPPED = "dropped"
    WAITING = "waiting"
    OLDEST = "oldest"
    RETRIES = "retries"
    RESTARTS = "restarts"
    CPU = "cpu"
    MEMORY = "memory"


class View(NamedTuple):
    """Which rows are shown, and in which order; `text` is what has been typed, which is in the name or the state."""

    order: Order = Order.STATE
    globs: tuple[str, ...] = ()
    only_unhealthy: bool = False
    text: str = ""
    is_typing: bool = False

    def rows(self, rows: list[Row], before: dict[str, Row]) -> list[Row]:
        """Return what is to be shown; `before` is what the look before has seen."""
        shown = [row for row in rows if not self.globs or any(matches(glob, row.part) for glob in self.globs)]
        shown = [row for row in shown if not (self.only_unhealthy and row.well)]
        shown = [row for row in shown if self.text.lower() in f"{row.part} {row.state}".lower()]
        match self.order:
            case Order.STATE:
                return shown
            case Order.PART:
                return sorted(shown, key=lambda row: row.part)
            case Order.IN | Order.OUT | Order.BYTES | Order.CPU:  # what it was in this time, not since the start
                name = _COLUMNS[self.order]
                return sorted(shown, key=lambda row: _grown(row, before.get(row.part), name), reverse=True)
            case _:
                name = _COLUMNS[self.order]
                return sorted(shown, key=lambda row: getattr(row, name) or 0, reverse=True)

    def after(self, key: str) -> View:
        """Return the view after a key was pressed."""
        if self.is_typing:
            return self._typed(key)
        orders = list(Order)
        match key:
            case "s":
                return self._replace(order=orders[(orders.index(self.order) + 1) % len(orders)])
            case "u":
                return self._replace(only_unhealthy=not self.only_unhealthy)
            case "/":
                return self._replace(is_typing=True)
            case "\x1b":
                return self._replace(text="")
            case _:
                return self

    def _typed(self, key: str) -> View:
        match key:
            case "\r" | "\n":
                return self._replace(is_typing=False)
            case "\x1b":
                return self._replace(is_typing=False, text="")
            case "\x7f" | "\b":
                return self._replace(text=self.text[:-1])
            case _ if key.isprintable():
                return self._replace(text=self.text + key)
            case _:
                return self

    def help(self) -> str:
        """Return what the keys do."""
        if self.is_typing:
            return f"filter: {self.text}_  (Enter keeps it, Escape clears it)"
        unhealthy = "all" if self.only_unhealthy else "only what is unhealthy"
        text = f" ({self.text}; Escape clears it)" if self.text else ""
        return f"s: sort (by {self.order.value})  u: {unhealthy}  /: filter{text}  q: quit"


_COLUMNS = {
    Order.IN: "received",
    Order.OUT: "sent",
    Order.BYTES: "bytes",
    Order.ERRORS: "errors",
    Order.DROPPED: "dropped",
    Order.WAITING: "waiting",
    Order.OLDEST: "oldest_seconds",
    Order.RETRIES: "retries",
    Order.RESTARTS: "restarts",
    Order.CPU: "cpu_seconds",
    Order.MEMORY: "memory_bytes",
}


def _grown(row: Row, before: Row | None, name: str) -> float:
    now = getattr(row, name) or 0
    return float(now - ((getattr(before, name) or 0) if before is not None else 0))
