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

from msgspec import Struct

from polku.gateway.http.content import Head
from polku.lazy import pattern

EVENTS = "/v1/events"
_STARTS = (b"POST /v1/events", b"GET /health")
HEAD_BYTES = 8_190  # of a whole head, as aiohttp's of one line
BODY_BYTES = 256 * 1024
_KNOWN_HEADS = 256
_KNOWN_SHAPES = 128
_LENGTH_DIGITS = 9
_POST = pattern(rb"POST (/v1/events)(?:\?([A-Za-z0-9_.=&:/@~-]*))? HTTP/1\.1")
_GET = pattern(rb"GET (/health(?:/live|/ready)?)(?:\?(strict))? HTTP/1\.1")
_FIELD = pattern(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
_VALUE = pattern(rb"[\x20-\x7e\t]*")
# What clients change with each request. Nothing of it says how a request is read, but for its length; the name of a
# field is part of the shape, its value is not.
_OWN = pattern(rb"\r\n(content-length|traceparent|tracestate|x-request-id):[ \t]*([^\r\n]*)(?=\r\n)", re.IGNORECASE)
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


class Shape:
    """What heads have in common that differ in what each request has of its own, such as its length; `head` is of one.

    What is found out about such requests may be kept by the shape: it is that object alone, for as long as it is known.
    """

    __slots__ = ("head",)

    def __init__(self, head: Head) -> None:
        self.head = head


class UsualHead(Struct, frozen=True):
    """What the head of a usual request says."""

    head: Head
    length: int
    authorization: str
    closes: bool
    """Whether the connection ends with the answer."""
    shape: Shape


class UsualHeads:
    """Read heads; those that were seen before are known, and those that differ from them in `_OWN` fields."""

    def __init__(self) -> None:
        self._known: dict[bytes, UsualHead | None] = {}
        self._shapes: dict[tuple[bytes, ...], UsualHead] = {}

    def read(self, content: bytes) -> UsualHead | None:
        """Read a complete head, with the empty line; None where it is of any other request."""
        try:
            return self._known[content]
        except KeyError:
            pass
        pieces = _OWN.split(content)
        values = pieces[2::3]
        del pieces[2::3]
        key = tuple(pieces)
        like = self._shapes.get(key)
        found = _read(content) if like is None else _read_like(like, pieces[1::2], values)
        if found is not None and like is None:
            if len(self._shapes) >= _KNOWN_SHAPES:
                self._shapes.clear()
            self._shapes[key] = found
        if len(pieces) <= 3:  # nothing but a length, of which there are not many
            if len(self._known) >= _KNOWN_HEADS:
                self._known.clear()
            self._known[content] = found
        return found


def may_be_usual(begin: bytes | bytearray) -> bool:
    """Return whether what has come of a head may become one of a usual request."""
    return len(begin) <= HEAD_BYTES and any(begin.startswith(one) or one.startswith(begin) for one in _STARTS)


def _read_like(like: UsualHead, names: list[bytes], values: list[bytes]) -> UsualHead | None:
    """Return what a head says that differs from another one in the values of these fields alone."""
    head, length = like.head, like.length
    headers = dict(head.headers)
    for name, value in zip(names, values, strict=True):
        if _VALUE.fullmatch(value) is None:
            return None
        field, text = name.decode().lower(), value.decode().rstrip(" \t")
        headers[field] = text
        if field == "content-length":
            if not _is_length(text, BODY_BYTES if head.path == EVENTS else 0):
                return None
            length = int(text)
    own = Head(headers, head.source, head.cluster, head.path, head.query)
    return UsualHead(own, length, like.authorization, like.closes, like.shape)


def _is_length(text: str, most: int) -> bool:
    return text.isdigit() and len(text) <= _LENGTH_DIGITS and int(text) <= most


def _read(content: bytes) -> UsualHead | None:
    first, *lines = content[:-4].split(b"\r\n")
    post = _POST.fullmatch(first)
    request = post or _GET.fullmatch(first)
    fields = _fields(lines)
    if request is None or fields is None or "host" not in fields or not _UNUSUAL.isdisjoint(fields):
        return None
    length = fields.get("content-length", "" if post else "0")
    if not _is_length(length, BODY_BYTES if post else 0):
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
    return UsualHead(head, int(length), fields.get("authorization", ""), connection == "close", Shape(head))


def _fields(lines: list[bytes]) -> Mapping[str, str] | None:
    """Return header fields by their names in small letters; None where one is malformed, or appears twice."""
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
