"""Read a request's body, and never more of it than the limits allow: neither before nor after decompression."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from polku.codes import Code
from polku.gateway.http.refusal import RequestError
from polku.limits import Limits
from polku.rpc.compression import decompressor, zstd_error

if TYPE_CHECKING:
    from aiohttp import web

ENCODINGS = ("gzip", "zstd", "identity")
_ALIASES = {"x-gzip": "gzip", "": "identity"}
_PARTS = 100  # members of gzip, or frames of zstd, of one body
_SLICE = 64 * 1024
_TURN = 512 * 1024


def encoding_of(header: str) -> str:
    """Return the content coding of a request; raises `RequestError` 415 for one that is not supported."""
    name = header.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in ENCODINGS:
        message = f"Content-Encoding={header[:100]!r}: is not supported; send one of {', '.join(ENCODINGS)}"
        raise RequestError(415, Code.UNSUPPORTED, message, {"Accept-Encoding": ", ".join(ENCODINGS)})
    return name


class BodyReader:
    """Read bodies; `limits.open_bytes` bounds those of all requests together that are being read."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    def check_length(self, length: int | None) -> None:
        """Refuse a body that says of itself that it is too large."""
        if length is not None and length > self._limits.message_bytes:
            raise self._too_large(f"{length} bytes")

    async def read(self, request: web.Request) -> bytes:
        """Return the body as it was sent; raises `RequestError`."""
        _check_transfer(request.headers.get("Transfer-Encoding", "chunked"))
        held = len(body := bytearray())
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                while chunk := await request.content.readany():
                    body += chunk
                    self._held += len(body) - held
                    held = len(body)
                    self._check(held, held)
        except TimeoutError:
            message = f"body: not complete after {self._limits.read_seconds} s; send smaller ones, or faster"
            raise RequestError(408, Code.MALFORMED, message, close=True) from None
        except _broken_body() as error:
            if isinstance(error, RuntimeError) and request.transport is not None:
                raise  # where it is gone, aiohttp says so by this one
            message = f"body: ended or broke off too early ({type(error).__name__}); send it again whole"
            raise RequestError(400, Code.MALFORMED, message, close=True) from None
        finally:
            self._held -= held
        return bytes(body)

    async def decompress(self, data: bytes, encoding: str) -> bytes:
        """Return the plain body; stops as soon as there is more than the limit, of it or of parts.

        Others have their turn after each `_TURN` bytes: 4 MiB take 10 ms. Raises `RequestError`.
        """
        if encoding == "identity":
            return data
        plain = bytearray()
        turn, counted = _TURN, len(data)
        self._held += counted
        try:
            for piece in _decompressed(data, encoding):
                plain += piece
                self._held, counted = self._held + len(piece), counted + len(piece)
                self._check(len(plain), counted, " when decompressed")
                if len(plain) > turn:
                    turn = len(plain) + _TURN
                    await asyncio.sleep(0)
        except (zlib.error, EOFError, zstd_error()) as error:
            message = f"body: not valid {encoding} ({error}); compress it again, or send it as it is"
            raise RequestError(400, Code.MALFORMED, message) from None
        finally:
            self._held -= counted
        return bytes(plain)

    def _check(self, size: int, own: int, when: str = "") -> None:
        if size > self._limits.message_bytes:
            raise self._too_large(f"more than {self._limits.message_bytes} bytes{when}")
        if self._held > self._limits.open_bytes and self._held > own:
            message = f"{self._held} bytes are being read already; send again later"
            raise RequestError(429, Code.BUFFER_FULL, message, {"Retry-After": "1"}, close=True)

    def _too_large(self, what: str) -> RequestError:
        limit = self._limits.message_bytes
        return RequestError(413, Code.TOO_LARGE, f"body: {what}, the limit is {limit}; send fewer events at once")


def _check_transfer(header: str) -> None:
    """Raise `RequestError` 501 (RFC 9112, section 6.1) for a body that is more than cut into chunks on its way."""
    if header.strip().lower() != "chunked":
        message = f"Transfer-Encoding={header[:100]!r}: is not supported; compress by Content-Encoding"
        raise RequestError(501, Code.UNSUPPORTED, message, close=True)


def _decompressed(data: bytes, encoding: str) -> Iterator[bytes]:
    """Yield what the parts of a body hold, `_SLICE` bytes at most each time; both formats allow several parts.

    Decoders are given slices too, so that no more than one is copied where a part ends.
    """
    at = 0
    for _ in range(_PARTS):
        part = decompressor(encoding)
        while not part.eof:
            piece = data[at : at + _SLICE] if part.needs_input else b""
            if part.needs_input and not piece:
                raise EOFError("it ends too early")
            at += len(piece)
            yield part.decompress(piece, _SLICE)
        at -= len(part.unused_data)
        if at == len(data):
            return
    raise EOFError(f"it has more than {_PARTS} parts")


def _broken_body() -> tuple[type[Exception], ...]:
    import aiohttp
    from aiohttp import web

    broken = (web.RequestPayloadError, aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError)
    return (*broken, ConnectionError, RuntimeError)
