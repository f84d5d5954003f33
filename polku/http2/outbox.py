"""What one connection sends: frames are collected and leave in one write; DATA waits for windows and for the socket.

Flow control of what we send is section 5.2 of RFC 9113. Streams that wait are served in turns, the one that has waited
longest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from polku.http2 import frames as f
from polku.http2.stream import Stream

_LARGE = 1 << 16  # bytes: a piece from which on it is cheaper not to copy it behind the others


class Trailer:
    """Stands behind the DATA of a stream that waits: the header block that ends it, or the end alone (None)."""

    __slots__ = ("block",)

    def __init__(self, block: bytes | None) -> None:
        self.block = block


class Outbox:
    """Collect frames, and write them at the end of a read or of a turn of the event loop.

    `finished` is called for a stream whose end was sent, `drained` for one with nothing left that waits.
    """

    def __init__(self, finished: Callable[[Stream], None], drained: Callable[[Stream], None]) -> None:
        self._finished = finished
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._frames: list[Any] = []
        self._waiting: dict[int, Stream] = {}
        self._has_large = False  # of `_frames`
        self._will_flush = False
        self.transport: Any = None
        self.is_closed = False
        self.is_reading = False  # what is sent meanwhile leaves when the read is done
        self.is_paused = False  # the socket's buffer is full
        self.window = f.INITIAL_WINDOW  # bytes of DATA that the connection may send
        self.initial_window = f.INITIAL_WINDOW  # of a stream: the peer's SETTINGS_INITIAL_WINDOW_SIZE
        self.max_frame = f.SMALLEST_MAX_FRAME  # the peer's SETTINGS_MAX_FRAME_SIZE
        self.unsent = 0  # bytes of DATA that wait

    def put(self, frame: bytes) -> None:
        """Send a frame that no flow control holds back."""
        if not self.is_closed:
            self._frames.append(frame)
            self._flush_later()

    def put_whole(self, number: int, head: bytes, body: bytes, trailers: bytes | None = None) -> bool:
        """Send all of a request or an answer on a new stream, if all of it can leave now; return whether it can.

        Without trailers the body ends the stream.
        """
        size = len(body)
        if self.is_closed or self.is_paused or size > min(self.window, self.initial_window, self.max_frame):
            return False
        self.window -= size
        self._frames += (
            f.write_head(0, len(head), f.HEADERS, f.END_HEADERS, number),
            head,
            f.write_head(size >> 8, size & 255, f.DATA, f.END_STREAM if trailers is None else 0, number),
            body,
        )
        if trailers is not None:
            self._frames += (
                f.write_head(0, len(trailers), f.HEADERS, f.END_HEADERS | f.END_STREAM, number),
                trailers,
            )
        self._flush_later()
        return True

    def put_headers(self, number: int, block: bytes, flags: int = 0) -> None:
        """Send a header block, in several frames where it is larger than one (section 4.3)."""
        if self.is_closed:
            return
        size = min(len(block), self.max_frame)
        last = f.END_HEADERS if size == len(block) else 0
        self._frames.append(f.frame(f.HEADERS, flags | last, number, block[:size]))
        while size < len(block):
            piece = block[size : size + self.max_frame]
            size += len(piece)
            self._frames.append(f.frame(f.CONTINUATION, f.END_HEADERS if size == len(block) else 0, number, piece))
        self._flush_later()

    def send(self, stream: Stream, data: bytes) -> None:
        """Send DATA, now or when there is a window."""
        stream.pending.append(data)
        stream.pending_bytes += len(data)
        self.unsent += len(data)
        self.pump(stream)

    def end(self, stream: Stream, trailers: bytes | None) -> None:
        """End a stream behind what still waits."""
        stream.pending.append(Trailer(trailers))
        self.pump(stream)

    def pump(self, stream: Stream) -> None:
        """Send what of a stream waits, as far as the windows and the socket allow it."""
        if self.is_closed:
            self.forget(stream)
            return
        pending, put = stream.pending, self._frames.append
        while pending:
            piece = pending[0]
            if isinstance(piece, Trailer):
                pending.clear()
                self._finish(stream, piece.block)
                break
            size = min(len(piece), self.window, stream.window, self.max_frame)
            if self.is_paused or (size <= 0 and len(piece)):
                break
            whole = size == len(piece)
            put(f.write_head(size >> 8, size & 255, f.DATA, 0, stream.number))
            put(piece if whole else memoryview(piece)[:size])
            self._has_large = self._has_large or size >= _LARGE
            self.window -= size
            stream.window -= size
            stream.pending_bytes -= size
            self.unsent -= size
            if whole:
                pending.popleft()
            else:
                pending[0] = memoryview(piece)[size:]
        self._flush_later()
        if pending:
            self._waiting[stream.number] = stream
        elif self._waiting.pop(stream.number, None) is not None:
            self._drained(stream)

    def pump_all(self) -> None:
        """Send what waits on all streams, as far as that goes."""
        for stream in list(self._waiting.values()):
            if self.is_paused or self.window <= 0:
                return
            self._waiting.pop(stream.number, None)
            self._waiting[stream.number] = stream  # behind the others
            self.pump(stream)

    def forget(self, stream: Stream) -> None:
        """Drop what waits on a stream."""
        self.unsent -= stream.pending_bytes
        stream.pending_bytes = 0
        stream.pending.clear()
        self._waiting.pop(stream.number, None)

    def flush(self) -> None:
        """Write what was collected."""
        self._will_flush = False
        if not self._frames or self.is_closed:
            return
        frames, self._frames = self._frames, []
        if len(frames) == 1:
            self.transport.write(frames[0])
        elif self._has_large:
            self._has_large = False
            self.transport.writelines(frames)
        else:
            self.transport.write(b"".join(frames))

    def close(self) -> None:
        """Write what was collected, and nothing more."""
        self.flush()
        self.drop()

    def drop(self) -> None:
        """Write nothing more."""
        self.is_closed = True
        self._frames.clear()
        for stream in list(self._waiting.values()):
            self.forget(stream)

    def _finish(self, stream: Stream, trailers: bytes | None) -> None:
        if trailers is None:
            self._frames.append(f.frame(f.DATA, f.END_STREAM, stream.number))
        else:
            self.put_headers(stream.number, trailers, f.END_STREAM)
        self._finished(stream)

    def _flush_later(self) -> None:
        if not self.is_reading and not self._will_flush and not self.is_closed:
            self._will_flush = True
            self._loop.call_soon(self.flush)
