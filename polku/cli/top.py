"""`polku top`: one row for each part of a running pipeline, refreshed on a terminal, lines of JSON elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any

from polku.cli.admin_client import Repeatedly, To, find, reason_of
from polku.cli.command import Exit, Option
from polku.cli.credentials import NOTHING, Shown
from polku.cli.top_screen import Screen
from polku.cli.top_view import Order, Row, View
from polku.log_format import say
from polku.monitoring.quoting import quoted

_LETTERS = "The command says why. Repair what refuses them, or drop them."
_AGAIN = "; it is asked again and again"


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

    On a terminal the key s chooses the next column to sort by, u shows only what is unhealthy, / takes letters of a
    name or a state, and q ends it. Where it is narrow, totals and what a process takes are left out; JSON has them.
    Where standard output is no terminal, each look is one line of JSON. Exit status: 1 where nothing answers at first.
    """
    address = find(to, shown)
    before: dict[str, Row] = {}
    looked, said = 0, ""
    with (
        Screen(address.url, View(sort, tuple(filter or ())), interval) as screen,
        closing(Repeatedly(address)) as asked,
    ):
        while True:
            try:
                tree = _asked(asked)
                rows = rows_of(tree, address.url)
            except (OSError, ValueError, KeyError, TypeError) as error:
                why, rows = reason_of(error), []  # it may be restarting
                if not (looked and screen.is_terminal) and why != said:  # once, and not at every look
                    say(f"polku: {address.url}: no statistics to be had: {why}{_AGAIN if looked else ''}")
                said = why
                if not looked:
                    raise Exit(1) from None
                screen.miss(why)
            else:
                said = ""
                screen.take(tree, rows)
            looked += 1
            if not screen.is_terminal:
                print(json.dumps([row._asdict() for row in screen.view.rows(rows, before)]), flush=True)
            if looked == count or not screen.wait():
                return
            before = {row.part: row for row in rows}


def _asked(asked: Repeatedly) -> dict[str, Any]:
    status, body = asked.fetch("/statistics")
    if status != 200:  # the pipeline stops, or its supervisor is away
        raise OSError(body.decode("utf-8", "replace").strip())
    tree: dict[str, Any] = json.loads(body)
    return tree


def rows_of(tree: dict[str, Any], to: str = "") -> list[Row]:
    """Return the rows of a tree of statistics: parts that are unhealthy first, else in the order of the pipeline.

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
    """Return what rows are sorted by: the unhealthy ones first, then those that hold up others, or lose events."""
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
