"""A client made of bytes, and a server that answers every request with its own body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpack import Decoder, Encoder

from polku.http2 import frames as f
from polku.http2.connection import Connection
from polku.http2.frames import ErrorCode, StreamError
from polku.http2.header_blocks import Field, literal
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream

REQUEST: list[Field] = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo"), (b":authority", b"here")]
OK = b"\x88"
END = literal(b"grpc-status", b"0")
LIMITS = ConnectionLimits(resets=20, empty_frames=20, control_frames=20, header_block=2_000, unsent=10_000)


class Transport:
    """What a connection writes."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closing = self.is_aborted = False
        self.is_read = True
        self.is_gone = False  # the peer has reset the connection, and nothing has told so yet

    def write(self, data: bytes) -> None:
        assert not self.is_closing, "written after the end"
        self.written += data

    def close(self) -> None:
        self.is_closing = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_closing = True
        if self.is_gone:
            raise OSError(107, "Transport endpoint is not connected")

    def abort(self) -> None:
        self.is_closing = self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def get_extra_info(self, name: str) -> Any:
        return None


class Echo(Connection):
    """Answer each request with its body; `/later` waits for `release`, `/early` ends at once."""

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        super().__init__(limits or ConnectionLimits())
        self.bodies: dict[int, bytes] = {}
        self.whole: list[int] = []
        self.gone: list[int] = []
        self.reads = 0

    def read_head(self, fields: list[Field]) -> bytes:
        path = dict(fields).get(b":path")
        if path is None:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "no path")
        return path

    def requested(self, number: int, head: bytes, body: bytes) -> bool:
        if head != b"/echo":
            return False
        self.whole.append(number)
        self.bodies[number] = body
        self.answer(number, OK, body, END)
        return True

    def opened(self, stream: Stream) -> None:
        stream.app = bytearray()
        if stream.head == b"/early":
            self.send_headers(stream, OK)
            self.end(stream, END)

    def received(self, stream: Stream, data: memoryview) -> None:
        stream.app += data
        if stream.head != b"/later":
            self.consumed(stream, len(data))

    def ended(self, stream: Stream) -> None:
        self.bodies[stream.number] = bytes(stream.app)
        if stream.head != b"/later":
            self.release(stream)

    def release(self, stream: Stream) -> None:
        self.consumed(stream, len(stream.app))
        self.send_headers(stream, OK)
        self.send(stream, bytes(stream.app))
        self.end(stream, END)

    def lost(self, stream: Stream) -> None:
        self.gone.append(stream.number)

    def reading_done(self) -> None:
        self.reads += 1


class Frame:
    """One frame that was written."""

    def __init__(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        self.kind, self.flags, self.number, self.payload = kind, flags, number, payload

    @property
    def code(self) -> ErrorCode:
        """The error code of GOAWAY or RST_STREAM."""
        at = 4 if self.kind == f.GOAWAY else 0
        return ErrorCode(int.from_bytes(self.payload[at : at + 4], "big"))


def frames_in(transport: Transport) -> list[Frame]:
    """Return the frames that were written, and forget them."""
    written, at = bytes(transport.written), 0
    transport.written.clear()
    found = []
    while at < len(written):
        high, low, kind, flags, number = f.read_head(written, at)
        size = high << 8 | low
        found.append(Frame(kind, flags, number, written[at + 9 : at + 9 + size]))
        at += 9 + size
    assert at == len(written)
    return found


def status_of(frames: Sequence[Frame]) -> dict[int, int]:
    """Return the `grpc-status` of each stream that has ended."""
    decoder, found = Decoder(), dict[int, int]()
    for frame in frames:
        if frame.kind == f.HEADERS:
            fields = dict(decoder.decode(frame.payload, raw=True))
            if b"grpc-status" in fields:
                found[frame.number] = int(fields[b"grpc-status"])
    return found


class Client:
    """Write frames to a connection, and read what it writes."""

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self.transport = Transport()
        self.connection = Echo(limits)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.encoder = Encoder()
        self.decoder = Decoder()

    def greet(self, settings: dict[int, int] | None = None) -> None:
        """Send preface and SETTINGS, and forget what is answered."""
        self.send(f.PREFACE + f.settings(settings or {}))
        self.read()

    def send(self, data: bytes) -> None:
        """Send bytes as one read."""
        self.connection.data_received(data)

    def head(self, path: bytes = b"/echo", fields: Sequence[Field] = ()) -> bytes:
        """Return the header block of a request."""
        request = [(name, path if name == b":path" else value) for name, value in REQUEST]
        block: bytes = self.encoder.encode([*request, *fields])
        return block

    def request(self, number: int, body: bytes, path: bytes = b"/echo") -> bytes:
        """Return the frames of a whole request."""
        return f.frame(f.HEADERS, f.END_HEADERS, number, self.head(path)) + data(number, body, end=True)

    def read(self) -> list[Frame]:
        """Return the frames that were written since the last time."""
        self.connection._outbox.flush()
        return frames_in(self.transport)

    def answers(self) -> dict[int, bytes]:
        """Return the bodies that were written, by stream."""
        bodies: dict[int, bytes] = {}
        for frame in self.read():
            if frame.kind == f.DATA:
                bodies[frame.number] = bodies.get(frame.number, b"") + frame.payload
        return bodies


def data(number: int, body: bytes, *, end: bool = False) -> bytes:
    """Return a DATA frame."""
    return f.frame(f.DATA, f.END_STREAM if end else 0, number, body)


def last(client: Client) -> Frame:
    return client.read()[-1]


def window(number: int, credit: int) -> bytes:
    return f.window_update(number, credit)
