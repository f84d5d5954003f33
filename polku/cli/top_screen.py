"""The screen of `polku top`: what is wrong, the table, and what keys do; also while the pipeline does not answer."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from types import TracebackType
from typing import Any

from polku.cli.top_table import fit, table
from polku.cli.top_view import Row, View
from polku.text import duration, line, next_attempt

_CLEAR = "\x1b[2J\x1b[H"


class _Keys:
    """The keys that are pressed on the terminal, one by one; none where there is no terminal."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._before: list[Any] = []

    def __enter__(self) -> _Keys:
        if self.is_terminal:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_terminal:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """Return the next key, or nothing where none is pressed in time."""
        if not self.is_terminal:
            time.sleep(max(0.0, seconds))
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], max(0.0, seconds))
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""


class Screen:
    """What was seen last, drawn whenever that changes or a key is pressed; use it in a `with` block.

    Nothing is drawn where standard output is no terminal; keys are read where standard input is one too.
    """

    def __init__(self, url: str, view: View, interval: float) -> None:
        self.view = view
        self.is_terminal = sys.stdout.isatty()
        self._url = url
        self._interval = interval
        self._keys = _Keys()
        self._tree: dict[str, Any] = {}
        self._rows: list[Row] = []
        self._before: dict[str, Row] = {}
        self._seen_at = 0.0
        self._why = ""  # it does not answer

    def take(self, tree: dict[str, Any], rows: list[Row]) -> None:
        """Show what was seen now."""
        # After a time without answers there is nothing that rates could count from.
        self._before = {} if self._why else {row.part: row for row in self._rows}
        self._tree, self._rows, self._why = tree, rows, ""
        self._seen_at = time.monotonic()
        self._draw()

    def miss(self, why: str) -> None:
        """Show that there is no answer, and what was seen before."""
        self._why = why
        self._draw()

    def wait(self) -> bool:
        """Return once it is time for another look, or, then false, when a key ends it."""
        until = time.monotonic() + self._interval
        while key := self._keys.wait(until - time.monotonic()):
            if key == "q" and not self.view.is_typing:
                return False
            self.view = self.view.after(key)
            self._draw()
        return True

    def __enter__(self) -> Screen:
        self._keys.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._keys.__exit__()

    def _draw(self) -> None:
        if not self.is_terminal:
            return
        size = shutil.get_terminal_size()
        head = [head_of(self._tree), *self._missed(), "", *wrong(self._tree)]
        body = table(self.view.rows(self._rows, self._before), self._before, self._interval, size.columns)
        foot = ["", self.view.help()] if self._keys.is_terminal else []
        print(_CLEAR + "\n".join(map(line, fit(head, body, foot, size.columns, size.lines))), flush=True)

    def _missed(self) -> list[str]:
        if not self._why:
            return []
        seconds = duration(time.monotonic() - self._seen_at)
        return [f"NO ANSWER from {self._url} for {seconds}: {self._why}; it is asked again. What it said last:"]


def head_of(tree: dict[str, Any]) -> str:
    """Return which pipeline it is, for how long it runs, and whether it takes events."""
    state = "ready" if tree["ready"] else f"not ready: {tree['not_ready']}"
    return f"{tree['pipeline']} ({tree['runtime']}), up {duration(tree['uptime_seconds'])}, {state}"


def wrong(tree: dict[str, Any]) -> list[str]:
    """Return what is wrong: each part that holds up others, or that there is advice about, and since when.

    What helps is a line below it, and what to type another one.
    """
    lines = []
    for name, part in tree["parts"].items():
        why, advice, command = part.get("holds_up"), part.get("advice"), part.get("command")
        if not why and not advice:
            continue
        again = next_attempt(part.get("next_attempt_seconds", 0.0))
        text = f"{name}, for {duration(part['seconds'])}: {why or part['message']}"
        lines.append("; ".join(filter(None, (text, again))))
        lines += [f"  {help}" for help in (advice, command) if help]
    if dead := _dead(tree):
        lines.append(f"dead letters since the start: {dead}; `polku dlq list` says why")
    return [*lines, ""] if lines else []


def _dead(tree: dict[str, Any]) -> str:
    """Return how many dead letters there are, by code and emitter."""
    counts: dict[str, int] = {}
    for one in tree.get("dead_letters", ()):
        kind = line(f"{one['code']} of {one['emitter']}" if one["emitter"] else one["code"])
        counts[kind] = counts.get(kind, 0) + one["total"]
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if count)
