"""Events of a running pipeline at its admin address: `/tap`, `/explain` and `/dead-letters`."""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

from polku.dead_letters.store import Selection
from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event
from polku.monitoring.http1 import Response
from polku.tap.redaction import Redaction
from polku.tap.request import LIMIT, MAX_LIMIT, Sighting, TapReply, TapRequest, What

if TYPE_CHECKING:
    from polku.buffer.copies import Found
    from polku.dead_letters import DeadLetter, LetterVerb

PATHS = ("/tap", "/explain", "/dead-letters")
CHANGES = ("/dead-letters/replay", "/dead-letters/drop")
_MOST_PATTERNS = 100
_SESSION = 64
_LETTERS = 50


class Events(Protocol):
    """What a pipeline tells of its events."""

    async def tap(self, request: TapRequest) -> list[TapReply]:
        """Return what each process has kept for who asks."""
        ...

    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are."""
        ...

    async def dead_letters(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the latest dead letters, all or those that are chosen, oldest first."""
        ...

    async def change_dead_letters(self, verb: LetterVerb, selection: Selection) -> int:
        """Replay or drop dead letters, or count those that are to be replayed; return how many."""
        ...


async def answer(path: str, query: str, events: Events, redaction: Redaction) -> Response:
    """Answer a request for one of `PATHS` or `CHANGES`: 400 where its query is wrong."""
    try:
        match path:
            case "/tap":
                told = await _tap(query, events)
            case "/explain":
                told = await _explain(query, events)
            case "/dead-letters/replay":
                told = await _change("replay", query, events)
            case "/dead-letters/drop":
                told = await _change("drop", query, events)
            case _:
                told = await _letters(query, events, redaction)
    except ValueError as error:
        return Response(400, f"{error}\n".encode())
    return Response(200, json.dumps(told).encode() + b"\n", "application/json")


async def _tap(query: str, events: Events) -> dict[str, Any]:
    request, form = parse_query(query)
    reply = merged(await events.tap(request))
    seen = [_FORMS[form](one) for one in reply.sightings]
    return {"parts": sorted(set(reply.parts)), "passed": reply.passed, "events": seen}


async def _explain(query: str, events: Events) -> dict[str, Any]:
    event_id = _fields(query, {"id"}).get("id", [""])[0]
    if not event_id:
        raise ValueError("id: say which event")
    found = await events.find(event_id)
    letters = await events.dead_letters(Selection(event_id=event_id))
    copies = [
        {"part": copy.part, "state": copy.state, "time_unix_ns": copy.time_ns, "ahead": copy.ahead, "left": copy.left}
        for copy in found.copies
    ]
    told: dict[str, Any] = {"id": event_id, "copies": copies, "searched": found.searched, "complete": found.complete}
    told["drops"] = {name: {"rule": rule, "dropped": dropped} for name, (rule, dropped) in found.drops.items()}
    return {**told, "dead_letters": [_letter(letter) for letter in letters]}


async def _letters(query: str, events: Events, redaction: Redaction) -> dict[str, Any]:
    fields = _fields(query, {"id", "emitter", "code", "limit", "since", "waiting"})
    if "waiting" in fields:
        return {"waiting": await events.change_dead_letters("waiting", Selection())}
    chosen = {name: values[0] for name, values in fields.items()}
    limit = _limit(chosen.get("limit", str(_LETTERS)))
    letters = (await events.dead_letters(_selection(chosen)))[::-1]
    shown = [{**_letter(one), "event": event_fields(redaction.redacted(one.event))} for one in letters[:limit]]
    if "id" in chosen and not redaction.payload:  # what a destination said may have some of the payload in it
        shown = [{**fields, "detail": one.detail} for fields, one in zip(shown, letters, strict=False)]
    return {"letters": shown, "left_out": max(0, len(letters) - limit)}


async def _change(verb: LetterVerb, query: str, events: Events) -> dict[str, Any]:
    fields = _fields(query, {"id", "emitter", "code", "since", "all"})
    if not fields:
        raise ValueError("say which letters: id, emitter, code, since, or all")
    chosen = {name: values[0] for name, values in fields.items()}
    return {"letters": await events.change_dead_letters(verb, _selection(chosen))}


def _selection(chosen: dict[str, str]) -> Selection:
    return Selection(
        emitter=chosen.get("emitter"),
        code=chosen.get("code"),
        since_ns=_since(chosen.get("since", "")),
        event_id=chosen.get("id"),
    )


def _since(text: str) -> int:
    """Return the Unix time, in nanoseconds, of a number of seconds ago; 0 where none is given."""
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise ValueError(f"since={text!r}: write a number of seconds")
    return time.time_ns() - round(seconds * 1e9) if seconds else 0


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.event.id,
        "emitter": letter.emitter,
        "code": letter.code,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "time_unix_ns": letter.time_ns,
    }


def parse_query(query: str) -> tuple[TapRequest, str]:
    """Return what a query asks for, and in which form events are to be; raises `ValueError`."""
    fields = _fields(query, {"session", "limit", "id", "form", *What})
    session = fields.get("session", [""])[0]
    if not 1 <= len(session) <= _SESSION:
        raise ValueError(f"session: name yours with 1 to {_SESSION} characters that nobody else uses")
    form = fields.get("form", ["json"])[0]
    if form not in _FORMS:
        raise ValueError(f"form={form!r}: write {' or '.join(_FORMS)}")
    limit = _limit(fields.get("limit", [str(LIMIT)])[0])
    wants = {what: tuple(fields[what]) for what in What if what in fields}
    return TapRequest(session, wants, limit, fields.get("id", [""])[0]), form


def merged(replies: Iterable[TapReply]) -> TapReply:
    """Return what all processes have kept, oldest first."""
    replies = list(replies)
    parts = tuple(part for reply in replies for part in reply.parts)
    seen = sorted((one for reply in replies for one in reply.sightings), key=lambda one: one.time_ns)
    return TapReply(parts, sum(reply.passed for reply in replies), tuple(seen))


def as_json(seen: Sighting) -> dict[str, Any]:
    """Return a sighting as `json.dumps` takes it; the event as the JsonIngestor reads it."""
    fields = _fields_beside(seen)
    if seen.event:
        fields["event"] = event_fields(Event.FromString(seen.event))
    return fields


def as_protobuf(seen: Sighting) -> dict[str, Any]:
    """Return a sighting as `json.dumps` takes it; the event as a message in base64, for a fifth of the work."""
    fields = _fields_beside(seen)
    if seen.event:
        fields["event_protobuf"] = b64encode(seen.event).decode()
    return fields


_FORMS = {"json": as_json, "protobuf": as_protobuf}


def _fields_beside(seen: Sighting) -> dict[str, Any]:
    fields: dict[str, Any] = {"time_unix_ns": seen.time_ns, "part": seen.part, "what": seen.what, "id": seen.event_id}
    if seen.code:
        fields["code"] = seen.code
    if seen.reason:
        fields["reason"] = seen.reason
    if seen.left_out:
        fields["payload_bytes_left_out"] = seen.left_out
    return fields


def _fields(query: str, known: set[str]) -> dict[str, list[str]]:
    fields = parse_qs(query, keep_blank_values=True, max_num_fields=_MOST_PATTERNS)
    if unknown := fields.keys() - known:
        raise ValueError(f"{sorted(unknown)[0]!r} is not known; there are {', '.join(sorted(known))}")
    return fields


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"limit={text!r}: write a whole number from 1 to {MAX_LIMIT}")
    return int(text)
