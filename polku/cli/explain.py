"""`polku explain`: where each copy of an event is now, and what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from polku.cli.admin_client import To, find, reason_of
from polku.cli.command import Argument, Exit, Option
from polku.cli.credentials import NOTHING, Credentials, Shown
from polku.log_format import say
from polku.text import counted, line

_SECONDS = 30.0
_LEFT = {
    "leaving": "; the emitter has left the pipeline, and delivers what it has",
    "gone": "; there is no such emitter: `polku health` says what to do",
}


def explain(
    id: Annotated[str, Argument(metavar="EVENT-ID", help="The event's id.")],
    to: To = None,
    shown: Shown = NOTHING,
    journal: Annotated[
        Path | None, Option(metavar="PATH", help="Look into a journal instead, also of a pipeline that does not run.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Say where each copy of an event is now (at which emitter it waits, or is in flight), and what became of others.

    What was delivered is known of the latest half megabyte of each emitter, what died as long as its dead letter is
    kept. What middleware holds back, and what is on its way to the buffer, is not looked at. Exit status: 1, nothing
    is known of the event, or nothing answers.
    """
    if journal is not None:
        shown.refuse_file(journal)
    told = _in_journal(journal, id) if journal is not None else _of_pipeline(to, shown, id)
    if as_json:
        print(json.dumps(told))
    else:
        for text in _sentences(told):
            print(text)
    if not told["copies"] and not told["dead_letters"]:
        raise Exit(1)


def _of_pipeline(to: str | None, shown: Credentials, event_id: str) -> dict[str, Any]:
    address = find(to, shown)
    try:
        status, body = address.fetch(f"/explain?{urlencode({'id': event_id})}", seconds=_SECONDS)
        if status != 200:
            raise OSError(body.decode("utf-8", "replace").strip())
        told: dict[str, Any] = json.loads(body)
    except (OSError, ValueError) as error:
        say(f"polku: {address.url}: nothing to be had about the event: {reason_of(error)}")
        raise Exit(1) from None
    return told


def _in_journal(path: Path, event_id: str) -> dict[str, Any]:
    """Return what a journal, and the dead letters beside it, have of an event."""
    from polku.buffer.copies import places
    from polku.buffer.journal_reader import JournalReader
    from polku.errors import JournalCorruptError

    copies: list[dict[str, Any]] = []
    searched, complete = 0, True
    journal = JournalReader(path)
    try:
        gone = {outlet.name for outlet in journal.outlets() if outlet.orphaned}
        for position, _, emitters in journal.takers(0, journal.last_position):
            try:
                batch = journal.read(position)
            except (JournalCorruptError, KeyError):
                complete = False
                continue
            searched += len(batch)
            there = places(batch, event_id) if emitters else []
            copies += [_waits(name, batch.enqueued_ns, is_gone=name in gone) for _ in there for name in emitters]
    finally:
        journal.close()
    told = {"id": event_id, "copies": copies, "searched": searched, "complete": complete}
    return {**told, "dead_letters": _letters_beside(path, event_id)}


def _waits(emitter: str, enqueued_ns: int, *, is_gone: bool) -> dict[str, Any]:
    left = "gone" if is_gone else ""
    return {"part": f"emitter:{emitter}", "state": "waiting", "time_unix_ns": enqueued_ns, "left": left}


def _letters_beside(path: Path, event_id: str) -> list[dict[str, Any]]:
    from polku.dead_letters.store import DeadLetterStore, Selection

    beside = path.with_name(f"{path.name}.dead")
    if not beside.exists():
        return []
    store = DeadLetterStore(beside, create=False)
    try:
        letters = list(store.select(Selection(event_id=event_id)))
    finally:
        store.close()
    names = ("emitter", "code", "reason", "attempts")
    return [
        {"id": one.event_id, **{name: getattr(one, name) for name in names}, "time_unix_ns": one.last_ns}
        for one in reversed(letters)
    ]


def _sentences(told: dict[str, Any]) -> Iterator[str]:
    for copy in told["copies"]:
        yield f"{line(copy['part'])}: {_state(copy)}"
    for letter in told["dead_letters"]:
        where = f"emitter:{line(letter['emitter'])}" if letter["emitter"] else "no emitter"
        tries = f" after {letter['attempts']} attempts" if letter["attempts"] > 1 else ""
        when = _time(letter["time_unix_ns"])
        yield f"{where}: a dead letter since {when}{tries}: {line(letter['code'])}: {line(letter['reason'])}"
    if not told["copies"] and not told["dead_letters"]:
        yield f"event {line(told['id'])}: nothing is known of it: it was delivered a while ago, dropped, or never taken"
    known = {copy["part"] for copy in told["copies"]} | {f"emitter:{one['emitter']}" for one in told["dead_letters"]}
    for name, one in told.get("drops", {}).items():
        if name not in known:
            yield f"{line(name)}: has dropped {one['dropped']:,} events ({line(one['rule'])}), perhaps this one"
    if not told["complete"]:
        yield f"not all was looked at: {counted(told['searched'], 'event', 'was', 'were')}"


def _state(copy: dict[str, Any]) -> str:
    came = copy["time_unix_ns"]
    if copy["state"] == "delivered":
        return f"delivered at {_time(came)}"
    since = f" for {time.time() - came / 1e9:,.1f} s" if came else ""
    ahead = f", {counted(copy['ahead'], 'event', 'is', 'are')} before it" if copy.get("ahead") else ""
    state = "in flight" if copy["state"] == "in flight" else "waits"
    return f"{state}{since}{ahead}{_LEFT.get(copy.get('left', ''), '')}"


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
