"""Decompress piece by piece, as much as is asked for."""

from __future__ import annotations

import zlib
from typing import Any

_ZSTD_WINDOW_LOG = 23  # 8 MB: what a decoder of the content coding has to support (RFC 9659)


class _Gzip:
    """Decompress one member of gzip, with the interface of the other decompressors of Python."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the member."""
        return self._inner.unused_data

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return up to `limit` bytes; what is given where no input is needed must be empty."""
        piece = self._inner.decompress(data or self._inner.unconsumed_tail, limit)
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < limit
        return piece


def decompressor(encoding: str) -> Any:
    """Return what decompresses one member of gzip, or one frame of zstd, piece by piece."""
    if encoding == "gzip":
        return _Gzip()
    zstd = _zstd()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


def zstd_error() -> type[Exception]:
    """Return what decompressors of zstd raise."""
    error: type[Exception] = _zstd().ZstdError
    return error


def _zstd() -> Any:
    from backports import zstd

    return zstd
