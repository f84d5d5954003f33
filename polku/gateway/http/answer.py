"""Acks and health as JSON, and the status (RFC 9110) that says what became of a request.

The JSON has the names of the `.proto` files (snake_case, as everywhere in POLKU), all fields always, and numbers as
numbers. protobuf's own JSON parsers read it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from itertools import islice
from typing import Any

import msgspec

from polku.aio.slices import at_once
from polku.batch.receipt import Receipt
from polku.codes import Code
from polku.gateway.ack_size import PIECE, bounding
from polku.gateway.acks import to_stats
from polku.gateway.retry_hints import RETRY_SECONDS
from polku.health import Health
from polku.v1.gateway_pb2 import Ack, AckError, MiddlewareStats

Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Return the metrics as they are now, and their content type, by the `Accept` header of who asks."""

JSON = "application/json"
_IDS = b'{"event_ids":'
_STATS = tuple(field.name for field in MiddlewareStats.DESCRIPTOR.fields)
_RETRY_AFTER = {code: {"Retry-After": f"{math.ceil(seconds)}"} for code, seconds in RETRY_SECONDS.items()}
_SIZE = {Code.TOO_LARGE, Code.TOO_MANY_EVENTS}
_OURS = {Code.MIDDLEWARE_ERROR, Code.MIDDLEWARE_TIMEOUT, Code.POISON, Code.UNROUTABLE, Code.UNDELIVERED}

_STATUS = (
    (401, {Code.UNAUTHENTICATED}),
    (403, {Code.PERMISSION_DENIED}),
    (413, _SIZE),
    (500, {Code.INGESTOR_ERROR}),
    (422, _OURS),
)


def status_of(ack: Ack) -> tuple[int, Mapping[str, str]]:
    """Return the status of an Ack and the headers that go with it.

    200 where anything was accepted, or nothing was sent. Else 503 and 429 where sending it again can help; 401 where
    the signature is wrong; 403 where the client has no right to it; 413 where it is too large; 500 where the ingestor
    failed; 422 where all events became dead letters on their way, which sending again would only repeat; 400 for any
    other fault of the input.
    """
    if ack.event_ids or not ack.errors:
        return 200, {}
    codes = {error.code for error in ack.errors}
    if codes & {Code.UNAVAILABLE, Code.DRAINING}:
        return 503, _RETRY_AFTER[Code.UNAVAILABLE]
    if Code.BUFFER_FULL in codes:
        return 429, _RETRY_AFTER[Code.BUFFER_FULL]
    if Code.RATE_LIMITED in codes:
        return 429, _RETRY_AFTER[Code.RATE_LIMITED]
    for status, kinds in _STATUS:
        if codes <= kinds:
            return status, {}
    return 400, {}


def ack_json(ack: Ack) -> bytes:
    """Return an Ack as JSON, of bounded length."""
    return at_once(writing_ack(ack))


def writing_ack(ack: Ack) -> Generator[None, None, bytes]:
    """Do what `ack_json` does, in slices."""
    ack = yield from bounding(ack, lambda error: _size(_error(error)) + 1, lambda ids: _size(list(ids)))
    parts = [b'{"event_ids":[']
    yield from _write_items(ack.event_ids, parts)
    parts.append(b'],"errors":[')
    yield from _write_items(map(_error, ack.errors), parts)
    parts += (b"],", _numbers(ack.buffer_size, ack.buffer_capacity, ack.middleware_stats))
    return b"".join(parts)


def _numbers(buffer_size: int, buffer_capacity: int, stats: MiddlewareStats) -> bytes:
    numbers: dict[str, Any] = {
        "buffer_size": buffer_size,
        "buffer_capacity": buffer_capacity,
        "middleware_stats": {name: getattr(stats, name) for name in _STATS},
    }
    return msgspec.json.encode(numbers)[1:] + b"\n"


def accepted_tail(receipt: Receipt, events: int) -> bytes:
    """Return what stands behind the ids in the JSON of an Ack for that many events, all of them accepted."""
    stats = to_stats(receipt.counts_of(events))
    return b',"errors":[],' + _numbers(receipt.buffer_size, receipt.buffer_capacity, stats)


def accepted_written(ids: Sequence[str], tail: bytes, second: int, *, close: bool) -> bytes:
    """Return the whole answer for events that were accepted, as `written` does it of their Ack."""
    listed = msgspec.json.encode(ids)
    before, behind = _accepted_head(second, close=close)
    return b"%b%d%b%b%b" % (before, len(listed) + len(tail) + len(_IDS), behind, listed, tail)


@lru_cache(4)
def _accepted_head(second: int, *, close: bool) -> tuple[bytes, bytes]:
    """Return what stands around the number of bytes, up to the ids."""
    head = _head(200, {"Content-Type": JSON}, -1, second, close=close)
    before, _, behind = head.encode().partition(b"-1")
    return before, behind + _IDS


def _write_items(items: Iterable[object], parts: list[bytes]) -> Generator[None, None, None]:
    """Append what stands between the brackets of an array."""
    items = iter(items)
    piece = list(islice(items, PIECE))
    while piece:
        parts.append(msgspec.json.encode(piece)[1:-1])
        if piece := list(islice(items, PIECE)):
            parts.append(b",")
            yield


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))


def _error(error: AckError) -> dict[str, str]:
    return {"event_id": error.event_id, "code": error.code, "message": error.message}


def written(status: int, headers: Mapping[str, str], body: bytes, *, close: bool) -> bytes:
    """Return an answer as it is sent."""
    return _head(status, headers, len(body), int(time.time()), close=close).encode() + body


def _head(status: int, headers: Mapping[str, str], length: int, second: int, *, close: bool) -> str:
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items() if name != "Connection"])
    closing = "Connection: close\r\n" if close else ""
    phrase = HTTPStatus(status).phrase
    head = f"HTTP/1.1 {status} {phrase}\r\n{fields}Content-Length: {length}\r\n{_date(second)}{closing}"
    return f"{head}Server: polku\r\n\r\n"


@lru_cache(1)
def _date(second: int) -> str:
    from email.utils import formatdate  # by the first answer: a gateway is ready sooner

    return f"Date: {formatdate(second, usegmt=True)}\r\n"


def health_json(health: Health, uptime_seconds: int) -> bytes:
    """Return a `HealthResponse` as JSON."""
    components = {name: {"healthy": ok, "message": text} for name, (ok, text) in health.components.items()}
    fields: dict[str, Any] = {
        "healthy": health.healthy,
        "components": components,
        "uptime_seconds": uptime_seconds,
        "events_processed": health.processed,
    }
    return msgspec.json.encode(fields) + b"\n"
