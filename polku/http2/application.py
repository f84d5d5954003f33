"""What a server on HTTP/2 does: the methods that `Connection` calls, each within the read that it is about."""

from __future__ import annotations

from typing import Any

from polku.http2.header_blocks import Field
from polku.http2.stream import Stream


class Application:
    """Answer requests. None of these may raise, but for what is said there."""

    def read_head(self, fields: list[Field]) -> Any:
        """Return what the fields of a request mean; raises `StreamError` for a malformed one (RFC 9113, 8.1.1).

        What it returns is used again for requests with the same header block. Its attribute `length`, if it has one, is
        the content-length (-1: none).
        """
        raise NotImplementedError

    def requested(self, number: int, head: Any, body: bytes) -> bool:
        """Take a request that came whole in one read; return whether it is taken: then `Connection.answer` ends it.

        Where it is not, it comes again by `opened` and `received`.
        """
        return False

    def opened(self, stream: Stream) -> None:
        """A request has begun; its head is `stream.head`."""
        raise NotImplementedError

    def received(self, stream: Stream, data: memoryview) -> None:
        """A piece of a request's body has come, to be `consumed`; `data` is valid during this call alone."""
        raise NotImplementedError

    def ended(self, stream: Stream) -> None:
        """The request is complete."""
        raise NotImplementedError

    def closed(self, stream: Stream) -> None:
        """The stream is gone, however it has ended."""

    def lost(self, stream: Stream) -> None:
        """The stream was closed by the peer, or the connection is gone; nothing can be sent any more."""

    def drained(self, stream: Stream) -> None:
        """All that waited for a window has been sent."""

    def retiring(self, reason: str) -> None:
        """The connection ends for its age: streams that would not end by themselves should."""

    def reading_done(self) -> None:
        """All that one read brought was handed on."""

    def greeting_failed(self, data: bytes) -> bytes | None:
        """Return what to answer a peer that does not speak HTTP/2, from the first bytes that it sent; None: too few."""
        return b""
