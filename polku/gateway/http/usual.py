"""The usual request: a `POST /v1/events`, or a question for the health, that is read here, and needs no framework.

aiohttp takes twenty times as long for a request as reading and checking its event does. So a connection begins here,
and requests that are plain are answered from here, one after the other. At the first request that is anything else -
another path, a page of a browser, a body in chunks, `Expect`, bytes that are not ASCII, a large body - the connection
is aiohttp's, with all bytes of that request, for as long as it is open: nothing is read by two parsers, and what is
malformed is refused by aiohttp's. A gateway that nobody asks such a thing never loads aiohttp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from polku.gateway.http.content import Head

EVENTS = "/v1/events"
_STARTS = (b"POST /v1/events", b"GET /health")
HEAD_BYTES = 8_190  # of a whole head, as aiohttp's of one line
BODY_BYTES = 256 * 1024
_KNOWN_HEADS = 256
_LENGTH_DIGITS = 9
_POST = re.compile(rb"POST (/v1/events)(?:\?([A-Za-z0-9_.=&:/@~-]*))? HTTP/1\.1")
_GET = re.compile(rb"GET (/health(?:/live|/ready)?)(?:\?(strict))? HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
_UNUSUAL = frozenset(
    (
        "expect",
        "origin",
        "prefer",
        "sec-fetch-site",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-connection",
    )
)


class UsualHead(NamedTuple):
    """What the head of a usual request says."""

    head: Head
    length: int
    encoding: str
    """The `Content-Encoding`."""
    authorization: str
    closes: bool
    """Whether the connection ends with the answer."""


class UsualHeads:
    """Read heads; those that were seen before are known."""

    def __init__(self) -> None:
        self._known: dict[bytes, UsualHead | None] = {}

    def read(self, content: bytes) -> UsualHead | None:
        """Read a complete head, with the empty line; None where it is of any other request."""
        if content in self._known:
            return self._known[content]
        if len(self._known) >= _KNOWN_HEADS:
            self._known.clear()
        self._known[content] = found = _read(content)
        return found


def may_be_usual(begin: bytes | bytearray) -> bool:
    """Return whether what has come of a head may become one of a usual request."""
    return len(begin) <= HEAD_BYTES and any(begin.startswith(one) or one.startswith(begin) for one in _STARTS)


def _read(content: bytes) -> UsualHead | None:
    first, *lines = content[:-4].split(b"\r\n")
    post = _POST.fullmatch(first)
    request = post or _GET.fullmatch(first)
    fields = _fields(lines)
    if request is None or fields is None or "host" not in fields or not _UNUSUAL.isdisjoint(fields):
        return None
    length = fields.get("content-length", "" if post else "0")
    if not length.isdigit() or len(length) > _LENGTH_DIGITS or int(length) > (BODY_BYTES if post else 0):
        return None
    connection = fields.get("connection", "keep-alive").lower()
    if connection not in ("keep-alive", "close") or fields.get("user-agent", "")[:8] == "Mozilla/":
        return None
    query = (request[2] or b"").decode()
    parameters: dict[str, str] = {}
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        parameters.setdefault(name, value)
    source = parameters.get("source") or fields.get("x-polku-source", "")
    cluster = parameters.get("cluster") or fields.get("x-polku-cluster", "")
    head = Head(fields, source, cluster, request[1].decode(), query)
    return UsualHead(
        head, int(length), fields.get("content-encoding", ""), fields.get("authorization", ""), connection == "close"
    )


def _fields(lines: list[bytes]) -> Mapping[str, str] | None:
    """Return header fields by their names in small letters; None where one is malformed, or stands twice."""
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name = field[1].decode().lower()
        if name in fields:
            return None
        fields[name] = field[2].decode().rstrip(" \t")
    return fields
