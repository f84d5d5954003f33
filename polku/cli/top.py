"""`polku top`: one row for each part of a running pipeline, refreshed on a terminal, lines of JSON elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from polku.cli.admin_client import Repeatedly, To, find, reason_of
from polku.cli.command import Exit, Option
from polku.cli.credentials import NOTHING, Shown
from polku.cli.top_table import fit, table
from polku.cli.top_view import Order, Row, View
from polku.log_format import say
from polku.monitoring.quoting import quoted
from polku.text import line, next_attempt

_LETTERS = "The command says why. Repair what refuses them, or drop them."
_AGAIN = "; it is asked again and again"
_CLEAR = "\x1b[2J\x1b[H"


class Keys:
    """The keys that are pressed on the terminal, one by one; none where there is no terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        if self._is_terminal:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_terminal:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """Return the next key, or nothing where none is pressed in time."""
        if not self._is_terminal:
            time.sleep(max(0.0, seconds))
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], max(0.0, seconds))
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""

    def help(self, view: View) -> list[str]:
        """Return what the keys do."""
        return ["", view.help()] if self._is_terminal else []


def top(
    to: To = None,
    shown: Shown = NOTHING,
    interval: Annotated[float, Option(metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    count: Annotated[int, Option(metavar="N", min=0, help="End after that many looks; 0: never.")] = 0,
    sort: Annotated[Order, Option(help="The largest first; state: what is wrong.")] = Order.STATE,
    filter: Annotated[
        list[str] | None, Option(metavar="GLOB", help="Only parts that this names, as `polku tap` does; repeatable.")
    ] = None,
) -> None:
    """Show the parts of a running pipeline: what is wrong first, until Ctrl-C.

    On a terminal the key s chooses the next column to sort by, u shows only what is unwell, / takes letters of a name
    or a state, and q ends it. Where it is narrow, totals and what a process takes are left out; JSON has them.
    Where standard output is no terminal, each look is one line of JSON. Exit status: 1 where nothing answers at first.
    """
    address = find(to, shown)
    before: dict[str, Row] = {}
    view = View(sort, tuple(filter or ()))
    looked, said = 0, ""
    with Keys() as keys, contextlib.closing(Repeatedly(address)) as asked:
        while True:
            try:
                status, body = asked.fetch("/statistics")
                if status != 200:  # the pipeline stops, or its supervisor is away
                    raise OSError(body.decode("utf-8", "replace").strip())
                tree = json.loads(body)
                rows = rows_of(tree, address.url)
            except (OSError, ValueError, KeyError, TypeError) as error:
                if (why := reason_of(error)) != said:  # once, and not at every look
                    say(f"polku: {address.url}: no statistics to be had: {why}{_AGAIN if looked else ''}")
                said = why
                if not looked:
                    raise Exit(1) from None
                rows = []  # it may be restarting
            else:
                said = ""
            looked += 1
            if sys.stdout.isatty():
                if rows:
                    _draw(tree, view, rows, before, interval, help=keys.help(view))
            else:
                print(json.dumps([row._asdict() for row in view.rows(rows, before)]), flush=True)
            if looked == count:
                return
            until = time.monotonic() + interval
            while (key := keys.wait(until - time.monotonic())) and rows:
                if key == "q" and not view.is_typing:
                    return
                view = view.after(key)
                _draw(tree, view, rows, before, interval, help=keys.help(view))
            before = {row.part: row for row in rows}


def _draw(
    tree: dict[str, Any], view: View, rows: list[Row], before: dict[str, Row], interval: float, *, help: list[str]
) -> None:
    size = shutil.get_terminal_size()
    head = [_head(tree), "", *_wrong(tree)]
    body = table(view.rows(rows, before), before, interval, size.columns)
    print(_CLEAR + "\n".join(map(line, fit(head, body, help, size.columns, size.lines))), flush=True)


def _wrong(tree: dict[str, Any]) -> list[str]:
    """Return a sentence for each part that holds up others, or that there is advice about: since when, what to do."""
    sentences = []
    for name, part in tree["parts"].items():
        why, advice, command = part.get("holds_up"), part.get("advice"), part.get("command")
        if not why and not advice:
            continue
        text = f"{name}, for {part['seconds']:.0f} s: {why or part['message']}"
        again = next_attempt(part.get("next_attempt_seconds", 0.0))
        sentences.append("; ".join(filter(None, (text, again, advice, command))))
    if dead := _dead(tree):
        sentences.append(f"dead letters since the start: {dead}; `polku dlq list` says why")
    return [*sentences, ""] if sentences else []


def _dead(tree: dict[str, Any]) -> str:
    """Return how many dead letters there are, by code and emitter."""
    counts: dict[str, int] = {}
    for one in tree.get("dead_letters", ()):
        kind = line(f"{one['code']} of {one['emitter']}" if one["emitter"] else one["code"])
        counts[kind] = counts.get(kind, 0) + one["total"]
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if count)


def rows_of(tree: dict[str, Any], to: str = "") -> list[Row]:
    """Return the rows of a tree of statistics: parts that are unwell first, else in the order of the pipeline.

    Commands in them ask the address `to`, or the only pipeline that runs.
    """
    rows = [row for lane in tree["lanes"] for row in _lane(lane)]
    rows += [_stage(name, stage) for name, stage in tree["shared"].items()]
    named = {row.part for row in rows}
    rows += [Row(name, well=True, state="ok") for name in tree["processes"] if name not in named]
    rows = [_with_process(tree, row) for row in rows]
    scales = [_scale(scale) for scale in tree.get("scales", ())]
    named = {row.part for row in rows}
    others = [_with_process(tree, Row(name, well=True, state="ok")) for name in tree["parts"] if name not in named]
    others = [row for row in others if not (row.well and row.part.endswith("dead_letters"))]  # these have rows below
    return sorted([*rows, *others, *_candidates(tree), *scales, *_letters(tree, to)], key=_by_trouble)


def _by_trouble(row: Row) -> tuple[bool, bool]:
    """Return what rows are sorted by: those that are unwell first, then those that hold up others, or lose events."""
    return row.well, not row.holds_up and (not row.advice or row.part.startswith("dead letters"))


def _letters(tree: dict[str, Any], to: str) -> Iterator[Row]:
    """Yield a row for the dead letters of each emitter, and for those of none, with the command that lists them."""
    asked = f" --to={quoted(to)}" if to else ""
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, str] = {}
    for one in tree.get("dead_letters", ()):
        reasons[one["emitter"]] = one.get("reason") or reasons.get(one["emitter"], "")
        counts.setdefault(one["emitter"], Counter())[one["code"]] += one["total"]
    for emitter, codes in sorted(counts.items()):
        if total := codes.total():
            state = ", ".join(f"{code} {count:,}" for code, count in sorted(codes.items()) if count)
            part = f"dead letters of {emitter}" if emitter else "dead letters"
            command = f"polku dlq list{asked} --emitter={quoted(emitter)}"
            latest = f"; the latest: {reasons[emitter]}" if reasons[emitter] else ""
            yield Row(part, True, f"since the start: {state}{latest}", errors=total, advice=_LETTERS, command=command)


def _scale(scale: dict[str, Any]) -> Row:
    """Return the row of a number that changes by need."""
    of = scale["of"] if scale["of"] == "lanes" else f"replicas of {scale['of']}"
    wanted = f", {scale['wanted']} wanted" if scale["wanted"] != scale["number"] else ""
    latest = scale["fault"] or scale["reason"]
    state = f"{scale['number']} of {scale['least']} to {scale['most']}{wanted}" + (f": {latest}" if latest else "")
    return Row(of, not scale["fault"], state, errors=scale["failures"] or None)


def _candidates(tree: dict[str, Any]) -> Iterator[Row]:
    """Yield a row for new middleware next to the one in use: errors are what differs, or is refused."""
    for lane in [*tree["lanes"], {"name": "", "stages": tree["shared"]}]:
        for name, stage in lane["stages"].items():
            for one in stage.get("candidates", ()):
                part = "/".join(filter(None, (lane["name"], name, f"{one['mode']}:{one['candidate']}")))
                yield _candidate(part, one)


def _candidate(part: str, one: dict[str, Any]) -> Row:
    counts, state = one["counts"], f"{one['share']:.3g} of {one['middleware']}"
    if one["mode"] == "canary":
        out = counts["new"] - counts["new_dropped"] - counts["new_refused"]
        state = f"{state}: refuses {_refused(counts, 'new')}, the one in use {_refused(counts, 'old')}"
        return Row(part, True, state, counts["new"], out, counts["new_refused"])
    differ = counts["different"] + counts["dropped"] + counts["failed"]
    if one["fault"]:
        state = f"{state}: {one['fault']}"
    elif one["latest"]:
        latest = one["latest"][0]
        state = f"{state}: {latest['event_id']} {latest['result']}: {latest['text']}"
    return Row(part, True, state, differ + counts["same"], counts["same"], differ)


def _refused(counts: dict[str, int], side: str) -> str:
    return f"{counts[f'{side}_refused'] / max(counts[side], 1):.1%}"


def _lane(lane: dict[str, Any]) -> Iterator[Row]:
    prefix = f"{lane['name']}/" if lane["name"] else ""
    if (ingest := lane["ingest"]) is not None:
        refused, waiting = sum(ingest["refused"].values()), ingest["open_messages"]
        row = Row(f"{prefix}ingest", True, "ok", ingest["received"], ingest["accepted"], refused, waiting)
        yield row._replace(bytes=ingest.get("received_bytes"))
        for name, source in ingest["sources"].items():
            yield Row(f"{prefix}source:{name}", True, "ok", sent=source["records"], waiting=source["lag"])
    for name, stage in lane["stages"].items():
        yield _stage(f"{prefix}{name}", stage)
    if (buffer := lane["buffer"]) is None:
        return
    yield Row(
        f"{prefix}buffer", True, "ok", buffer["received"], waiting=buffer["events"], bytes=buffer.get("received_bytes")
    )
    for name, outlet in buffer["outlets"].items():
        yield Row(
            f"{prefix}emitter:{name}",
            True,
            "ok",
            outlet["confirmed"] + outlet["dead"],
            outlet["confirmed"],
            outlet["dead"],
            outlet["waiting"],
            outlet["oldest_age_seconds"],
            lane["emitters"].get(name, {}).get("retries"),
            circuit=lane["emitters"].get(name, {}).get("circuit"),
            bytes=outlet.get("sent_bytes"),
            dropped=outlet.get("dropped") or None,
        )


def _stage(name: str, stage: dict[str, Any]) -> Row:
    return Row(name, True, "ok", stage["received"], stage["sent"], stage["dead"], stage["held"])


def _with_process(tree: dict[str, Any], row: Row) -> Row:
    """Return a row with how its part is, and what its process takes."""
    health = tree["parts"].get(row.part, {"healthy": True, "message": "ok"})
    told = {name: health.get(name, "") for name in ("holds_up", "advice", "command")}
    again = health.get("next_attempt_seconds") or None
    row = row._replace(well=health["healthy"], state=health["message"], next_attempt_seconds=again, **told)
    if (process := tree["processes"].get(row.part)) is None:
        return row
    return row._replace(**{name: process[name] for name in ("restarts", "cpu_seconds", "memory_bytes")})


def _head(tree: dict[str, Any]) -> str:
    state = "ready" if tree["ready"] else f"not ready: {tree['not_ready']}"
    return f"{tree['pipeline']} ({tree['runtime']}), up {tree['uptime_seconds']:.0f} s, {state}"
