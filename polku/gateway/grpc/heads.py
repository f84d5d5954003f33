"""The header fields of requests, and what they mean (PROTOCOL-HTTP2.md of gRPC; RFC 9113, section 8)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from polku.gateway.grpc.calls import Head, Method, UnaryMethod
from polku.http2.frames import ErrorCode, StreamError
from polku.http2.header_blocks import Field, is_allowed, is_value
from polku.rpc.status import Status, StatusCode
from polku.text import line

_ENCODINGS = (b"identity", b"gzip", b"zstd")
_ACCEPTED = (("grpc-accept-encoding", "identity,gzip,zstd"),)
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_VARYING = frozenset((b"grpc-timeout", b"traceparent", b"tracestate"))
_KNOWN_HEADS = 256
_GRPC = b"application/grpc"
_SHOWN = 100  # characters of what was sent
_LENGTH_DIGITS = 18  # of a content-length: Python reads no number of thousands
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
NOT_GRPC = "this port speaks gRPC over HTTP/2: send POST with content-type: application/grpc"


class HeadReader:
    """Read the heads of all connections to one port; those that were seen before are known.

    The methods whose paths are `open_paths` are there for all clients, whoever they are.
    """

    def __init__(self, methods: Mapping[bytes, Method], open_paths: Collection[bytes] = ()) -> None:
        self._methods = methods
        self._open_paths = open_paths
        self._known: dict[tuple[Field, ...], Head] = {}  # by their fields, without those that vary with each call

    def read(self, fields: list[Field]) -> Head:
        """Read the fields of a request; what varies with each call is read each time."""
        lasting = tuple([field for field in fields if field[0] not in _VARYING])
        head = self._known.get(lasting)
        if head is None:
            head = self._read_fields(lasting)
            if len(self._known) >= _KNOWN_HEADS:
                self._known.clear()
            self._known[lasting] = head
        return head if len(lasting) == len(fields) else _with_varying(head, fields)

    def _read_fields(self, fields: Sequence[Field]) -> Head:
        seen: dict[bytes, bytes] = {}
        metadata: dict[str, str] = {}
        length = -1
        for name, value in fields:
            if name[:1] == b":":
                if metadata or name in seen or name not in _PSEUDO or not is_value(value):
                    raise StreamError(ErrorCode.PROTOCOL_ERROR, "pseudo-header fields that are wrong or late")
                seen[name] = value
                continue
            if not is_allowed(name, value) or (name == b"te" and value != b"trailers"):
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "a field that HTTP/2 does not allow")
            if name == b"content-length":
                if not value.isdigit() or len(value) > _LENGTH_DIGITS or length not in (-1, int(value)):
                    raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is no number, or two")
                length = int(value)
            seen[name] = value
            metadata[name.decode("latin-1")] = value.decode("latin-1")
        if not seen.get(b":path") or b":method" not in seen or b":scheme" not in seen:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a request without :method, :scheme or :path")
        encoding = seen.get(b"grpc-encoding", b"identity")
        method = self._methods.get(seen[b":path"])
        accepted = [name.strip() for name in seen.get(b"grpc-accept-encoding", b"").split(b",")]
        packs = encoding == b"gzip" and encoding in accepted
        head = Head(method, None, length, encoding, None, metadata, packs, seen[b":path"] in self._open_paths)
        if (fault := _kind_fault(seen[b":method"], seen.get(b"content-type", b""))) is not None:
            return replace(head, fault=fault)
        if method is None:
            path = seen[b":path"].decode("latin-1")
            return replace(head, fault=Status(StatusCode.UNIMPLEMENTED, f"unknown method {path}"))
        if encoding not in _ENCODINGS:
            reason = f"grpc-encoding: {encoding.decode('latin-1')} is not supported; use identity, gzip or zstd"
            return replace(head, fault=Status(StatusCode.UNIMPLEMENTED, reason, _ACCEPTED))
        return head


def _kind_fault(method: bytes, kind: bytes) -> Status | None:
    """Return why a request is none of gRPC with protobuf; its subtype may have any name but that of JSON."""
    subtype = kind.removeprefix(_GRPC)
    if method != b"POST" or subtype == kind or (subtype and subtype[:1] not in b"+;"):
        found = f"{method.decode('latin-1')} with {kind.decode('latin-1') or 'no content-type'}"
        return Status(-1, f"{NOT_GRPC} (this is {line(found, _SHOWN)})")
    if subtype.startswith(b"+json"):
        reason = "content-type: application/grpc+json is not supported; send protobuf, as application/grpc"
        return Status(StatusCode.UNIMPLEMENTED, reason)
    return None


def _with_varying(head: Head, fields: Sequence[Field]) -> Head:
    """Return the head of one call: its deadline, and all of its metadata for a method that may ask for it."""
    first = next(place for place, (name, _) in enumerate(fields) if name in _VARYING)
    if any(name[:1] == b":" for name, _ in fields[first:]):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "pseudo-header fields that are late")
    varying = {name: value for name, value in fields[first:] if name in _VARYING}
    if not all(map(is_value, varying.values())):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "a field that HTTP/2 does not allow")
    if isinstance(head.method, UnaryMethod):
        own = {name.decode(): value.decode("latin-1") for name, value in varying.items()}
        head = replace(head, metadata={**head.metadata, **own})
    timeout = varying.get(b"grpc-timeout")
    return head if timeout is None or head.fault is not None else _with_timeout(head, timeout)


def _with_timeout(head: Head, value: bytes) -> Head:
    """Read `grpc-timeout`: up to eight digits and a unit."""
    unit = _UNITS.get(value[-1:])
    if unit is None or not value[:-1].isdigit() or len(value) > 9:
        reason = f"grpc-timeout: {value.decode('latin-1')} is no timeout; write up to 8 digits and H, M, S, m, u or n"
        return replace(head, fault=Status(StatusCode.INVALID_ARGUMENT, reason))
    return replace(head, timeout=int(value[:-1]) * unit)
