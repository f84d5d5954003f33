"""Cut requests of OTLP into records, and join records into requests, without reading any of them.

All three signals have the same shape: a request has resources (field 1), a resource has scopes (field 2), a scope has
records (field 2). Each level is read under a schema that knows this one field alone, as bytes; all else of a message is
unknown to it, and protobuf keeps that as it came. So whatever stands beside the records, fields of later versions too,
is one piece of bytes, the head, and joining heads and records again gives what came in, but for the order of fields.

Split, a record costs 0.54 µs; reading all of it takes 3 µs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

from google.protobuf.message import DecodeError

from polku.batch.frames import has_more_fields
from polku.batch.message_classes import BYTES, Field, message_classes
from polku.batch.varint import varint
from polku.codes import Code
from polku.errors import InputError

_PACKAGE = "polku.otlp.wire"
HEAD_BYTES = 64 * 1024
"""The most bytes of what a resource, or a scope, says beside its records."""

_COUNTED_BYTES = 512 * 1024  # of a message whose parts are counted before it is parsed: 12 MB of empty ones
_OTHER_FIELDS = 100  # of a message beside its parts, those of later versions too
_KNOWN_FRONTS = 4_096
_KEPT_FRONTS = 512


class Head(NamedTuple):
    """What stands beside a record: of its resource and of its scope."""

    resource: bytes
    scope: bytes


class Scope(NamedTuple):
    """The records of one scope, and what stands beside them: of their resource and of their scope."""

    resource: bytes
    scope: bytes
    records: Sequence[bytes]


_CLASSES = message_classes(
    _PACKAGE,
    {
        "Request": [Field(1, "parts", BYTES, repeated=True)],
        "Resource": [Field(2, "parts", BYTES, repeated=True)],
        "Scope": [Field(2, "parts", BYTES, repeated=True)],
    },
)
_REQUEST, _RESOURCE, _SCOPE = (_CLASSES[name] for name in ("Request", "Resource", "Scope"))


def split(request: bytes, limit: int) -> list[Scope]:
    """Cut a request into the records of each scope, in order; a scope without records is left out.

    Raises `InputError` where it is malformed, has more than `limit` resources, scopes or records, or a head that is
    over `HEAD_BYTES`.
    """
    scopes: list[Scope] = []
    count = parts = 0
    try:
        _check_fields(request, limit, "resources")
        resources = _REQUEST.FromString(request).parts
        _check_count(len(resources), limit, "resources")
        for content in resources:
            _check_fields(content, limit, "scopes")
            own, resource = _open(_RESOURCE, content)
            parts += len(own)
            _check_count(parts, limit, "scopes")
            for inner in own:
                _check_fields(inner, limit, "records")
                records, scope = _open(_SCOPE, inner)
                count += len(records)
                _check_count(count, limit, "records")
                if records:
                    scopes.append(Scope(_checked(resource, "resource"), _checked(scope, "scope"), records))
    except DecodeError as error:
        raise InputError(
            Code.MALFORMED, f"request: not a valid message of OTLP ({error}); send it again whole"
        ) from None
    return scopes


def split_one(content: bytes) -> Scope:
    """Cut what `wrap` has made: one resource with one scope; raises protobuf's `DecodeError` for anything else."""
    own, resource = _open(_RESOURCE, content)
    if len(own) != 1:
        raise DecodeError(f"{len(own)} scopes instead of one")
    records, scope = _open(_SCOPE, own[0])
    if len(records) != 1:
        raise DecodeError(f"{len(records)} records instead of one")
    return Scope(resource, scope, records)


class Unwrapper:
    """Cut what `wrap` has made, one after the other: most have the resource and the scope of one before.

    With a `tag`, of a number up to 15, what is cut is such a field, with its tag and its length.
    """

    def __init__(self, tag: int = 0) -> None:
        self._tag = tag
        self._heads: dict[Head, Head] = {}
        self.fronts: dict[int, tuple[bytes, Head, slice]] = {}
        """By the size of all: what stands before the record, the head in it, and where the record is.

        What begins with the same front, and is as long, is cut at the same place: the front ends with the lengths of
        all that follows.
        """

    def unwrap(self, content: bytes) -> tuple[Head, bytes]:
        """Return the head of a record, and the record; raises protobuf's `DecodeError` for anything else."""
        known = self.fronts.get(len(content))
        if known is not None and content.startswith(known[0]):
            return known[1], content[len(known[0]) :]
        own = content[self._own(content) :]
        resource, scope, records = split_one(own)
        record = records[0]
        head = Head(resource, scope)
        if len(self.fronts) >= _KNOWN_FRONTS:
            self.fronts.clear()
            self._heads.clear()
        head = self._heads.setdefault(head, head)
        front = Wrapper(resource, scope).front(len(record))[0]
        if front + record == own:  # as it is not where somebody has put the fields in another order
            size = len(content) - len(record)
            self.fronts[len(content)] = content[:size], head, slice(size, None)
        return head, record

    def _own(self, content: bytes) -> int:
        """Return where the field begins, behind its tag and its length."""
        if not self._tag:
            return 0
        for size in range(2, 7):
            if content.startswith(tagged(self._tag, len(content) - size)) and len(content) >= size:
                return size
        raise DecodeError("not one field")


class Wrapper:
    """Put records of one scope each into a resource and scope of its own: a message of OTLP that stands alone."""

    def __init__(self, resource: bytes, scope: bytes) -> None:
        self._resource, self._scope = resource, scope
        self._fronts: dict[int, tuple[bytes, bytes]] = {}
        self.front_bytes = len(resource) + len(scope) + 8

    def wrap(self, record: bytes) -> bytes:
        """Return a serialised ResourceLogs, ResourceSpans or ResourceMetrics of one record."""
        return self.front(len(record))[0] + record

    def front(self, size: int) -> tuple[bytes, bytes]:
        """Return what stands before a record of a size; and the same behind the length of all of it."""
        found = self._fronts.get(size)
        if found is None:
            if len(self._fronts) >= _KEPT_FRONTS:
                self._fronts.clear()
            own = self._scope + tagged(2, size)
            front = self._resource + tagged(2, len(own) + size) + own
            found = self._fronts[size] = front, varint(len(front) + size) + front
        return found


def join(scopes: Iterable[Scope]) -> list[bytes]:
    """Return the pieces of a request of these scopes; neighbours of one resource share it."""
    pieces: list[bytes] = []
    resource: bytes | None = None
    inner: list[bytes] = []
    for scope in scopes:
        if scope.resource != resource:
            if resource is not None:
                pieces += _framed(1, [resource, *inner])
            resource, inner = scope.resource, []
        sizes = list(map(len, scope.records))
        tags = {size: tagged(2, size) for size in set(sizes)}
        records = chain.from_iterable(zip(map(tags.__getitem__, sizes), scope.records, strict=True))
        inner += _framed(2, [scope.scope, *records])
    if resource is not None:
        pieces += _framed(1, [resource, *inner])
    return pieces


def _framed(number: int, pieces: Sequence[bytes]) -> list[bytes]:
    return [tagged(number, sum(map(len, pieces))), *pieces]


def tagged(number: int, size: int) -> bytes:
    """Return the tag of a field of bytes, of a number up to 15, and the length of what follows."""
    if size < 128:
        return bytes((number << 3 | 2, size))
    if size < 16_384:
        return bytes((number << 3 | 2, size & 127 | 128, size >> 7))
    return bytes((number << 3 | 2,)) + varint(size)


class TimeWriter:
    """Write times that are close to one another: nanoseconds, as protobuf writes a number."""

    def __init__(self) -> None:
        self._high = -1
        self._high_bytes = b""

    def write(self, time_ns: int) -> bytes:
        """Return a number that is not negative, in four bytes and those of its high bits, which seldom change."""
        high = time_ns >> 28
        if high != self._high:
            self._high, self._high_bytes = high, varint(high)
        low = (time_ns & 127 | 128, time_ns >> 7 & 127 | 128, time_ns >> 14 & 127 | 128, time_ns >> 21 & 127 | 128)
        return bytes(low) + self._high_bytes


def _open(kind: Any, content: bytes) -> tuple[list[bytes], bytes]:
    """Return the parts of a message, and the bytes of all else that is in it."""
    message = kind.FromString(content)
    parts = list(message.parts)
    message.ClearField("parts")
    return parts, cast("bytes", message.SerializeToString())


def _checked(head: bytes, what: str) -> bytes:
    if len(head) > HEAD_BYTES:
        reason = f"a {what} has {len(head)} bytes beside its records, the limit is {HEAD_BYTES}; send fewer attributes"
        raise InputError(Code.TOO_LARGE, reason)
    return head


def _check_fields(content: bytes, limit: int, what: str) -> None:
    """Refuse what has far too many parts before it is parsed: each takes 48 bytes and more then."""
    if len(content) <= _COUNTED_BYTES:
        return
    with contextlib.suppress(IndexError):  # parsing says what is wrong with it
        if has_more_fields(content, limit + _OTHER_FIELDS):
            raise InputError(
                Code.TOO_MANY_EVENTS, f"request: more than {limit} {what}, which is the limit; send fewer at once"
            )


def _check_count(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise InputError(Code.TOO_MANY_EVENTS, f"request: {count} {what}, the limit is {limit}; send fewer at once")
