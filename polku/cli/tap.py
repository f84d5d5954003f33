"""`polku tap`: a sample of the events that pass parts of a running pipeline, and what happens to them there."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import urlencode

from polku.cli.admin_client import AdminAddress, To, find, reason_of
from polku.cli.command import Argument, Exit, Option
from polku.cli.credentials import NOTHING, Shown
from polku.cli.sightings import FORMATS, Formats
from polku.errors import SettingError
from polku.log_format import say
from polku.tap.request import LEASE_SECONDS, LIMIT, MAX_LIMIT, What, matches

Globs = list[str] | None
_REMEMBERED = 100_000  # ids of events that were written
_LONGEST = LEASE_SECONDS * 500  # milliseconds: half of the time for which a tap stays unread


def tap(
    patterns: Annotated[
        list[str] | None, Argument(metavar="[PATTERN]...", help="Parts, by name or glob; all without one.")
    ] = None,
    to: To = None,
    shown: Shown = NOTHING,
    outputs_of: Annotated[Globs, Option(metavar="GLOB", help="Show what these parts hand on.")] = None,
    inputs_of: Annotated[Globs, Option(metavar="GLOB", help="Show what these parts are given.")] = None,
    dropped: Annotated[bool, Option("--dropped", help="Show what the parts drop, and why.")] = False,
    refused: Annotated[bool, Option("--refused", help="Show what is refused to clients, and why.")] = False,
    dead: Annotated[bool, Option("--dead", help="Show what becomes a dead letter, and why.")] = False,
    id: Annotated[str, Option(metavar="ID", help="The journey of this event through every part.")] = "",
    where: Annotated[
        str | None,
        Option(metavar="EXPR", help="Only events for which this Python expression of `event` is true."),
    ] = None,
    limit: Annotated[
        int, Option("--limit", "-l", min=1, max=MAX_LIMIT, help="Events of each part in an interval, at most.")
    ] = LIMIT,
    interval: Annotated[
        float,
        Option("--interval", "-i", metavar="MS", min=50, max=_LONGEST, help="Between two looks."),
    ] = 500,
    duration_ms: Annotated[
        int, Option("--duration-ms", "-d", metavar="MS", min=0, help="End after so long; 0: never.")
    ] = 0,
    format: Annotated[
        str | None, Option("--format", "-f", help="text, json or logfmt; text on a terminal, else json.")
    ] = None,
    to_file: Annotated[
        Path | None, Option(metavar="FILE", help="Write each event there too, once, as `polku send` reads it.")
    ] = None,
) -> None:
    """Show events of a running pipeline as they pass its parts, until Ctrl-C: a sample, for which nothing waits.

    A PATTERN names parts, as `polku top` does (ingest, stage-1, buffer, emitter:NAME), or middleware; what they hand
    on is shown, or, with --dropped, --refused and --dead, what happens to events there instead. Exit status: 1, nothing
    answers; 2, no part has such a name.
    """
    wants = _wants(patterns or [], outputs_of or [], inputs_of or [], dropped, refused, dead, id)
    show = _format(format)
    is_meant = _condition(where)
    address = find(to, shown)
    session = secrets.token_hex(8)
    query = urlencode({"session": session, "limit": limit, "id": id, **wants}, doseq=True)
    until = time.monotonic() + duration_ms / 1000 if duration_ms else None
    with opened(to_file) as file, ended(address, session):
        notice, written = _Notice(limit), _Written()
        for reply in replies(address, query, interval / 1000, until):
            check_parts(reply, wants)
            notice.note(reply)
            for seen in reply["events"]:
                if is_meant(seen):
                    print(show(seen), flush=True)
                    if file is not None and "event" in seen and written.is_new(seen["id"]):
                        file.write(json.dumps(seen["event"]) + "\n")
                        file.flush()


def _wants(
    patterns: list[str], outputs: list[str], inputs: list[str], dropped: bool, refused: bool, dead: bool, id: str
) -> dict[str, list[str]]:
    """Return which parts to look at for each thing that may happen to an event."""
    chosen_fates = ((What.DROPPED, dropped), (What.REFUSED, refused), (What.DEAD, dead))
    fates = [what for what, is_chosen in chosen_fates if is_chosen]
    everywhere = patterns or ["*"]
    if id and not (fates or outputs or inputs):
        return {str(what): everywhere for what in What}
    wants: dict[str, list[str]] = {str(what): everywhere for what in fates}
    own = patterns if not fates else []
    if chosen := [*outputs, *own] or ([] if fates or inputs else ["*"]):
        wants[What.OUT] = chosen
    if inputs:
        wants[What.IN] = inputs
    return wants


def _format(name: str | None) -> Formats:
    chosen = name or ("text" if sys.stdout.isatty() else "json")
    if chosen not in FORMATS:
        raise SettingError("--format", chosen, f"choose one of {', '.join(FORMATS)}")
    return FORMATS[chosen]


def _condition(expression: str | None) -> Callable[[dict[str, Any]], bool]:
    """Return whether a sighting is meant, by a Python expression that is evaluated here; raises `SettingError`."""
    if expression is None:
        return lambda seen: True
    try:
        code = compile(expression, "--where", "eval")
    except (SyntaxError, ValueError) as error:
        raise SettingError("--where", expression, f"is no Python expression: {error}") from None
    from polku.contracts import IngestContext
    from polku.event.v1.event_pb2 import Event
    from polku.ingest import JsonIngestor

    ingestor, context, failed = JsonIngestor(), IngestContext("ndjson"), set[str]()

    def is_meant(seen: dict[str, Any]) -> bool:
        if "event" not in seen:
            return False
        for event in ingestor.ingest(json.dumps(seen["event"]).encode(), context):
            try:
                return isinstance(event, Event) and bool(eval(code, {"event": event, "seen": seen}))
            except Exception as error:
                if (text := f"{type(error).__name__}: {error}") not in failed:
                    failed.add(text)
                    say(f"polku: --where={expression!r}: {text} (event {seen['id']})")
        return False

    return is_meant


def replies(address: AdminAddress, query: str, seconds: float, until: float | None) -> Iterator[dict[str, Any]]:
    """Yield what has passed since the answer before; ends with the first question that nobody answers, or in time.

    Events are made JSON here and not by the pipeline, which has other things to do.
    """
    from polku.emit.json_form import event_fields
    from polku.event.v1.event_pb2 import Event

    asked = 0
    while True:
        try:
            status, body = address.fetch(f"/tap?{query}&form=protobuf")
            if status != 200:
                raise OSError(body.decode("utf-8", "replace").strip())
            reply = json.loads(body)
        except (OSError, ValueError) as error:
            say(f"polku: {address.url}: no events to be had: {reason_of(error)}")
            raise Exit(1) from None
        for seen in reply["events"]:
            if data := seen.pop("event_protobuf", ""):
                seen["event"] = event_fields(Event.FromString(b64decode(data)))
        yield reply
        asked += 1
        if until is not None and time.monotonic() >= until:
            return
        left = seconds if until is None else min(seconds, max(0.0, until - time.monotonic()))
        try:
            time.sleep(left)
        except KeyboardInterrupt:
            return


def check_parts(reply: dict[str, Any], wants: dict[str, list[str]]) -> None:
    """Raise `SettingError` where a pattern names no part."""
    known: list[str] = reply["parts"]
    for patterns in wants.values():
        for pattern in patterns:
            if not any(matches(pattern, part) for part in known):
                there = f"; there are {', '.join(known)}" if known else "; see `polku top` for the parts"
                raise SettingError("PATTERN", pattern, f"no part is called so{there}")


class _Written:
    """Know which of the latest events were written: one passes several parts, and `send` refuses it twice."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def is_new(self, event_id: str) -> bool:
        """Return whether an event was not written before, and take note of it; one without an id always is."""
        if not event_id or event_id in self._ids:
            return not event_id
        if len(self._ids) >= _REMEMBERED:
            del self._ids[next(iter(self._ids))]
        self._ids[event_id] = None
        return True


class _Notice:
    """Say once that not all events are shown."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._is_given = False

    def note(self, reply: dict[str, Any]) -> None:
        if len(reply["events"]) < reply["passed"] and not self._is_given:
            self._is_given = True
            say(f"polku: a sample: {len(reply['events'])} of {reply['passed']} events; --limit shows more of them")


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[IO[str] | None]:
    """Open a file to add to, if there is one to open; raises `SettingError`."""
    if path is None:
        yield None
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise SettingError("--to-file", str(path), f"cannot be written: {error.strerror}") from None
    with file:
        yield file


@contextlib.contextmanager
def ended(address: AdminAddress, session: str) -> Iterator[None]:
    """End the session at the end, also where SIGTERM ends this, so that the pipeline keeps nothing for it any more."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(OSError):
            address.fetch(f"/tap?session={session}", seconds=1.0)
