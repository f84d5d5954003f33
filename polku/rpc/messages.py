"""Messages in the bodies of requests and answers (gRPC's Length-Prefixed-Message): a flag, a length, the bytes."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Generator
from io import BytesIO

from polku.aio.slices import at_once
from polku.rpc.compression import decompressor, zstd_error
from polku.rpc.status import CallError, Status, StatusCode

PREFIX_BYTES = 5
_PREFIX = struct.Struct(">BI")  # whether it is compressed, and the length of the message
read_prefix = _PREFIX.unpack_from
_GZIP = 31  # zlib's way to say so
_ZSTD = b"\x28\xb5\x2f\xfd"  # what a frame of zstd begins with (RFC 8878)
_SLICE = 64 * 1024
_STEP = 256 * 1024
_LEAST_PACKED = 800  # bytes: less is not worth it
_MOST_PACKED = 256 * 1024  # more is sent as it is: 2 MB take 30 ms
_LEVEL = 1  # the quickest: the event loop waits for it
write_prefix = _PREFIX.pack


class Packed(bytes):
    """A message that is still compressed, by gzip or zstd: `unpack` makes the message of it."""


class MessageReader:
    """Cut a request's body into messages of up to `limit` bytes, and `plain_limit` when decompressed.

    Where it `keeps_packed`, compressed messages come as `Packed`: they wait in few bytes.
    """

    __slots__ = (
        "_body",
        "_flag",
        "_head",
        "_missing",
        "began",
        "counted",
        "fault",
        "held",
        "keeps_packed",
        "limit",
        "plain_limit",
    )

    def __init__(self, limit: int, plain_limit: int = 0) -> None:
        self.plain_limit = plain_limit or limit
        self.keeps_packed = False
        self.held = 0  # bytes of a message that has come in part
        self.counted = 0  # those of them that `GrpcConnection.unfinished` has
        self.limit = limit
        self.fault: Status | None = None  # why nothing more can be read
        self.began = 0.0  # when that message began, by the monotonic clock
        self._head = b""  # of its prefix, where that has come in part
        self._body: BytesIO | None = None  # what has come behind its prefix: it becomes the message without a copy
        self._flag = self._missing = 0  # what its prefix says, and how many bytes are still to come

    def read(self, data: memoryview, encoding: bytes) -> list[bytes]:
        """Return the messages that are complete, up to the first that is wrong: `fault` says why it is."""
        messages: list[bytes] = []
        at, goes_on = 0, bool(self._head)
        if self._body is not None:
            at = min(self._missing, len(data))
            self._body.write(data[:at])
            self._missing -= at
            if self._missing:
                self.held += at
                return messages
            whole, self._body = self._body.getvalue(), None
            if not self._add(messages, self._flag, whole, encoding):
                return messages
        elif goes_on:
            data, self._head = memoryview(self._head + data), b""
        end = len(data)
        while end - at >= PREFIX_BYTES:
            flag, size = read_prefix(data, at)
            if size > self.limit:
                return self._end(messages, too_large(size, self.limit))
            start = at + PREFIX_BYTES
            if end - start < size:
                self._body, self._flag, self._missing = BytesIO(), flag, size - (end - start)
                self._body.write(data[start:])
                break
            if not self._add(messages, flag, bytes(data[start : start + size]), encoding):
                return messages
            at = start + size
        else:
            self._head = bytes(data[at:])
        self.held = end - at
        if self.held and (at or not goes_on):
            self.began = time.monotonic()
        return messages

    def forget(self) -> None:
        """Drop what has come of a message."""
        self._head, self._body, self.held = b"", None, 0

    def _add(self, messages: list[bytes], flag: int, message: bytes, encoding: bytes) -> bool:
        """Add a message, and return whether it is right."""
        try:
            messages.append(self._unpacked(message, encoding) if flag else message)
        except CallError as error:
            self._end(messages, error.status)
            return False
        return True

    def _end(self, messages: list[bytes], fault: Status) -> list[bytes]:
        self.fault, self.held = fault, 0
        return messages

    def _unpacked(self, message: bytes, encoding: bytes) -> bytes:
        if encoding not in (b"gzip", b"zstd"):
            raise CallError(Status(StatusCode.INTERNAL, "a compressed message without grpc-encoding"))
        if self.keeps_packed:
            return Packed(message)
        plain = unpack(message, self.plain_limit)
        if len(plain) > self.plain_limit:
            raise CallError(too_large(len(plain), self.plain_limit))
        return plain


def prefixed(message: bytes, *, packed: bool) -> bytes:
    """Return a message with its prefix; `packed`: compressed, where that is worth it and takes no more than some ms."""
    if not packed or not _LEAST_PACKED <= len(message) <= _MOST_PACKED:
        return write_prefix(0, len(message)) + message
    packing = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    content = packing.compress(message) + packing.flush()
    return write_prefix(1, len(content)) + content


def too_large(size: int, limit: int) -> Status:
    """Return the status of a message that is over the limit."""
    reason = f"TOO_LARGE: message: {size} bytes, the limit is {limit}; send smaller ones"
    return Status(StatusCode.RESOURCE_EXHAUSTED, reason)


def unpack(message: bytes, limit: int) -> bytes:
    """Return a message without its compression; one that is over the limit is cut off one byte behind it.

    Its first bytes tell gzip and zstd apart. Raises `CallError`.
    """
    return at_once(unpacking(message, limit))


def unpacking(message: bytes, limit: int) -> Generator[None, None, bytes]:
    """Do what `unpack` does in steps of a millisecond or two: 4 MiB take up to 15."""
    encoding = "zstd" if message[:4] == _ZSTD else "gzip"
    reader = decompressor(encoding)
    plain, at, turn = bytearray(), 0, _STEP
    try:
        while not reader.eof and len(plain) <= limit:
            piece = message[at : at + _SLICE] if reader.needs_input else b""
            if reader.needs_input and not piece:
                raise _fault(f"{encoding} that ends too early")
            at += len(piece)
            plain += reader.decompress(piece, min(_SLICE, limit + 1 - len(plain)))
            if len(plain) > turn:
                turn = len(plain) + _STEP
                yield
    except zlib.error as error:
        raise _fault(f"not valid gzip ({error})") from None
    except CallError:
        raise
    except zstd_error() as error:
        raise _fault(f"not valid zstd ({error})") from None
    is_whole = at == len(message) and not reader.unused_data
    if encoding == "zstd" and len(plain) <= limit and not is_whole:
        raise _fault("zstd that is not one frame")
    return bytes(plain)


def _fault(reason: str) -> CallError:
    return CallError(Status(StatusCode.INTERNAL, f"message: {reason}"))
