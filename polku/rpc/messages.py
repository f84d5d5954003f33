"""Messages in the bodies of requests and answers (gRPC's Length-Prefixed-Message): a flag, a length, the bytes."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Generator
from typing import Any

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
_PARTS = 100  # members of gzip of one message
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

    __slots__ = ("began", "buffer", "counted", "fault", "keeps_packed", "limit", "needed", "plain_limit")

    def __init__(self, limit: int, plain_limit: int = 0) -> None:
        self.plain_limit = plain_limit or limit
        self.keeps_packed = False
        self.buffer = bytearray()
        self.counted = 0  # bytes of `buffer` that `GrpcConnection.unfinished` has
        self.needed = PREFIX_BYTES
        self.limit = limit
        self.fault: Status | None = None  # why nothing more can be read
        self.began = 0.0  # when the message began that is in `buffer`, by the monotonic clock

    def read(self, data: memoryview, encoding: bytes) -> list[bytes]:
        """Return the messages that are complete, up to the first that is wrong: `fault` says why it is."""
        goes_on = bool(self.buffer)
        if goes_on:
            self.buffer += data
            if len(self.buffer) < self.needed:
                return []
            whole, self.buffer = self.buffer, bytearray()
            data = memoryview(whole)
        messages: list[bytes] = []
        at, end = 0, len(data)
        self.needed = PREFIX_BYTES
        while end - at >= PREFIX_BYTES:
            flag, size = read_prefix(data, at)
            if size > self.limit:
                return self._end(messages, too_large(size, self.limit))
            start = at + PREFIX_BYTES
            if end - start < size:
                self.needed = PREFIX_BYTES + size
                break
            message = bytes(data[start : start + size])
            try:
                messages.append(self._unpacked(message, flag, encoding) if flag else message)
            except CallError as error:
                return self._end(messages, error.status)
            at = start + size
        if at < end:
            if at or not goes_on:
                self.began = time.monotonic()
            self.buffer += data[at:]
        return messages

    def _end(self, messages: list[bytes], fault: Status) -> list[bytes]:
        self.fault = fault
        return messages

    def _unpacked(self, message: bytes, flag: int, encoding: bytes) -> bytes:
        if flag != 1:
            raise _fault(f"its flag is {flag}; write 0, or 1 where it is compressed")
        if encoding not in (b"gzip", b"zstd"):
            raise _fault("its flag says compressed, and grpc-encoding is not there; send gzip or zstd, or the flag 0")
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
    reader, parts = decompressor(encoding), 1
    plain, at, turn = bytearray(), 0, _STEP
    try:
        while len(plain) <= limit:
            if reader.eof:
                at -= len(reader.unused_data)
                if at == len(message):
                    break
                reader, parts = _next_part(encoding, parts), parts + 1
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
    return bytes(plain)


def _next_part(encoding: str, parts: int) -> Any:
    """Return what reads the next member: gzip may have several (RFC 1952, section 2.2)."""
    if encoding == "zstd":
        raise _fault("zstd that is not one frame")
    if parts == _PARTS:
        raise _fault(f"gzip of more than {_PARTS} parts")
    return decompressor(encoding)


def _fault(reason: str) -> CallError:
    return CallError(Status(StatusCode.INTERNAL, f"message: {reason}"))
