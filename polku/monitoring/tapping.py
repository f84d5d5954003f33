"""Events of a running pipeline at its admin address: `GET /tap`, asked again for as long as somebody looks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event
from polku.monitoring.http1 import Response
from polku.tap.request import LIMIT, MAX_LIMIT, Sighting, TapReply, TapRequest, What

_MOST_PATTERNS = 100
_SESSION = 64
Tap = Callable[[TapRequest], Awaitable[list[TapReply]]]


async def answer_tap(query: str, tap: Tap) -> Response:
    """Answer a request whose query says what to see: a `session`, globs for each of `What`, a `limit`, an `id`."""
    try:
        request = parse_request(query)
    except ValueError as error:
        return Response(400, f"{error}\n".encode())
    reply = merged(await tap(request))
    told = {
        "parts": sorted(set(reply.parts)),
        "passed": reply.passed,
        "events": [as_json(one) for one in reply.sightings],
    }
    return Response(200, json.dumps(told).encode() + b"\n", "application/json")


def parse_request(query: str) -> TapRequest:
    """Return what a query asks for; raises `ValueError`."""
    fields = parse_qs(query, keep_blank_values=True, max_num_fields=_MOST_PATTERNS)
    known = {"session", "limit", "id", *What}
    if unknown := fields.keys() - known:
        raise ValueError(f"{sorted(unknown)[0]!r} is not known; there are {', '.join(sorted(known))}")
    session = fields.get("session", [""])[0]
    if not 1 <= len(session) <= _SESSION:
        raise ValueError(f"session: name yours with 1 to {_SESSION} characters that nobody else uses")
    limit = fields.get("limit", [str(LIMIT)])[0]
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
        raise ValueError(f"limit={limit!r}: write a whole number from 1 to {MAX_LIMIT}")
    wants = {what: tuple(fields[what]) for what in What if what in fields}
    return TapRequest(session, wants, int(limit), fields.get("id", [""])[0])


def merged(replies: Iterable[TapReply]) -> TapReply:
    """Return what all processes have kept, oldest first."""
    replies = list(replies)
    parts = tuple(part for reply in replies for part in reply.parts)
    seen = sorted((one for reply in replies for one in reply.sightings), key=lambda one: one.time_ns)
    return TapReply(parts, sum(reply.passed for reply in replies), tuple(seen))


def as_json(seen: Sighting) -> dict[str, Any]:
    """Return a sighting as `json.dumps` takes it; the event as the JsonIngestor reads it."""
    fields: dict[str, Any] = {"time_unix_ns": seen.time_ns, "part": seen.part, "what": seen.what, "id": seen.event_id}
    if seen.code:
        fields["code"] = seen.code
    if seen.reason:
        fields["reason"] = seen.reason
    if seen.left_out:
        fields["payload_bytes_left_out"] = seen.left_out
    if seen.event:
        fields["event"] = event_fields(Event.FromString(seen.event))
    return fields
