"""`polku top`: one row for each part of a running pipeline, refreshed on a terminal, lines of JSON elsewhere."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any, NamedTuple

import typer

from polku.cli.health import To, admin_url, fetch
from polku.runtime.serving import say

_CLEAR = "\x1b[2J\x1b[H"
_TITLES = ("PART", "IN", "IN/S", "OUT", "OUT/S", "ERRORS", "WAITING", "OLDEST", "STATE")


class Row(NamedTuple):
    """One part: events in and out since its start, failed, waiting, the oldest one's age in seconds, how it is."""

    part: str
    received: int
    sent: int
    errors: int
    waiting: int
    oldest_seconds: float
    well: bool
    state: str


def top(
    to: To = None,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    count: Annotated[int, typer.Option(metavar="N", min=0, help="End after so many looks; 0: never.")] = 0,
) -> None:
    """Show the parts of a running pipeline: what is wrong first, until Ctrl-C.

    Where standard output is no terminal, each look is one line of JSON. Exit status: 1 where nothing answers at first.
    """
    url = admin_url(to)
    before: dict[str, Row] = {}
    looked = 0
    while True:
        try:
            tree = json.loads(fetch(f"{url}/statistics")[1])
            rows = rows_of(tree)
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"polku: {url}: no statistics to be had: {getattr(error, 'reason', None) or error}")
            if not looked:
                raise typer.Exit(1) from None
            rows = []  # it may be restarting
        looked += 1
        if not sys.stdout.isatty():
            print(json.dumps([row._asdict() for row in rows]), flush=True)
        elif rows:
            print(_CLEAR + "\n".join([_head(tree), *_table(rows, before, interval)]), flush=True)
        before = {row.part: row for row in rows}
        if looked == count:
            return
        time.sleep(interval)


def rows_of(tree: dict[str, Any]) -> list[Row]:
    """Return the rows of a tree of statistics: parts that are unwell first, else in the order of the pipeline."""
    rows = []
    for lane in tree["lanes"]:
        prefix = f"{lane['name']}/" if lane["name"] else ""
        if (ingest := lane["ingest"]) is not None:
            refused = sum(ingest["refused"].values())
            counts = (ingest["received"], ingest["accepted"], refused, ingest["open_messages"], 0.0)
            rows.append(_row(tree, f"{prefix}ingest", counts))
        rows += [_stage(tree, f"{prefix}{name}", stage) for name, stage in lane["stages"].items()]
        outlets = lane["buffer"]["outlets"] if lane["buffer"] is not None else {}
        for name, outlet in outlets.items():
            done = outlet["confirmed"] + outlet["dead"]
            counts = (done, outlet["confirmed"], outlet["dead"], outlet["waiting"], outlet["oldest_age_seconds"])
            rows.append(_row(tree, f"{prefix}emitter:{name}", counts))
    rows += [_stage(tree, name, stage) for name, stage in tree["shared"].items()]
    return sorted(rows, key=lambda row: row.well)


def _stage(tree: dict[str, Any], name: str, stage: dict[str, Any]) -> Row:
    return _row(tree, name, (stage["received"], stage["sent"], stage["dead"], stage["held"], 0.0))


def _row(tree: dict[str, Any], name: str, counts: tuple[int, int, int, int, float]) -> Row:
    health = tree["parts"].get(name, {"healthy": True, "message": "ok"})
    return Row(name, *counts, health["healthy"], health["message"])


def _head(tree: dict[str, Any]) -> str:
    state = "ready" if tree["ready"] else f"not ready: {tree['not_ready']}"
    return f"{tree['pipeline']} ({tree['runtime']}), up {tree['uptime_seconds']:.0f} s, {state}\n"


def _table(rows: list[Row], before: dict[str, Row], interval: float) -> list[str]:
    cells: list[tuple[str, ...]] = [_TITLES]
    for row in rows:
        old = before.get(row.part, row)
        came, went = (max(0, row.received - old.received) / interval, max(0, row.sent - old.sent) / interval)
        numbers = (row.received, round(came), row.sent, round(went), row.errors, row.waiting)
        cells.append((row.part, *(f"{number:,}" for number in numbers), f"{row.oldest_seconds:.1f} s", row.state))
    widths = [max(len(line[column]) for line in cells) for column in range(len(_TITLES) - 1)]
    return [_aligned(line, widths) for line in cells]


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers, cells[-1]])
