"""Read a request's body, and never more of it than the limits allow: neither before nor after decompression."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Any

from polku.codes import Code
from polku.gateway.http.refusal import RequestError
from polku.limits import Limits

if TYPE_CHECKING:
    from aiohttp import web

ENCODINGS = ("gzip", "zstd", "identity")
_ALIASES = {"x-gzip": "gzip", "": "identity"}
_ZSTD_WINDOW_LOG = 23  # 8 MB: what a decoder of the content coding has to support (RFC 9659)


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
        held = len(body := bytearray())
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                while chunk := await request.content.readany():
                    body += chunk
                    self._held += len(body) - held
                    held = len(body)
                    self._check(held)
        except TimeoutError:
            message = f"body: not complete after {self._limits.read_seconds} s; send smaller ones, or faster"
            raise RequestError(408, Code.MALFORMED, message, close=True) from None
        except _broken_body() as error:
            message = f"body: ended or broke off too early ({type(error).__name__}); send it again whole"
            raise RequestError(400, Code.MALFORMED, message, close=True) from None
        finally:
            self._held -= held
        return bytes(body)

    def decompress(self, data: bytes, encoding: str) -> bytes:
        """Return the plain body; stops as soon as there is more than the limit."""
        if encoding == "identity":
            return data
        try:
            return self._decompress(data, encoding)
        except (zlib.error, EOFError, _zstd().ZstdError) as error:
            message = f"body: not valid {encoding} ({error}); compress it again, or send it as it is"
            raise RequestError(400, Code.MALFORMED, message) from None

    def _decompress(self, data: bytes, encoding: str) -> bytes:
        limit = self._limits.message_bytes
        plain = bytearray()
        while data:  # both formats allow several parts, one after the other
            part = _decompressor(encoding)
            plain += part.decompress(data, limit + 1 - len(plain))
            if len(plain) > limit:
                raise self._too_large(f"more than {limit} bytes when decompressed")
            if not part.eof:
                raise EOFError("it ends too early")
            data = part.unused_data
        return bytes(plain)

    def _check(self, size: int) -> None:
        if size > self._limits.message_bytes:
            raise self._too_large(f"more than {self._limits.message_bytes} bytes")
        if self._held > self._limits.open_bytes and self._held > size:
            message = f"{self._held} bytes are being read already; send again later"
            raise RequestError(429, Code.BUFFER_FULL, message, {"Retry-After": "1"}, close=True)

    def _too_large(self, what: str) -> RequestError:
        limit = self._limits.message_bytes
        return RequestError(413, Code.TOO_LARGE, f"body: {what}, the limit is {limit}; send fewer events at once")


def _decompressor(encoding: str) -> Any:
    if encoding == "gzip":
        return zlib.decompressobj(wbits=31)
    zstd = _zstd()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


def _zstd() -> Any:
    from backports import zstd

    return zstd


def _broken_body() -> tuple[type[Exception], ...]:
    import aiohttp
    from aiohttp import web

    return (web.RequestPayloadError, aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, ConnectionError)
