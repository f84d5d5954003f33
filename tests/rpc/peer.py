"""A server made of bytes, and somebody who listens to a call."""

from __future__ import annotations

from collections.abc import Sequence

from hpack import Decoder, Encoder

from polku.http2 import frames as f
from polku.http2.header_blocks import Field
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.rpc.client import GrpcClientConnection, request_head
from polku.rpc.messages import write_prefix
from polku.rpc.status import Status
from tests.http2.peer import Frame, Transport, frames_in

HEAD: Sequence[Field] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK: Sequence[Field] = ((b"grpc-status", b"0"),)


class Ear:
    """Remember what was heard of a call."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.status: Status | None = None
        self.left: list[str] = []

    def answered(self, message: bytes) -> None:
        assert self.status is None
        self.messages.append(message)

    def ended(self, status: Status) -> None:
        assert self.status is None, "a call ends once"
        self.status = status

    def leaving(self, reason: str) -> None:
        self.left.append(reason)


class Server:
    """Write frames to a client's connection, and read what it writes."""

    def __init__(self, limits: ConnectionLimits | None = None, settings: dict[int, int] | None = None) -> None:
        self.transport = Transport()
        self.connection = GrpcClientConnection(limits or ConnectionLimits())
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.connection._outbox.flush()
        assert self.transport.written.startswith(f.PREFACE)
        del self.transport.written[: len(f.PREFACE)]
        assert [frame.kind for frame in self.read()] == [f.SETTINGS, f.WINDOW_UPDATE]
        self.send(f.settings(settings or {}))

    def call(self) -> tuple[Ear, Stream]:
        """Let the client begin a call."""
        ear = Ear()
        return ear, self.connection.begin(request_head("here:1", "/s/Talk", tls=False), ear)

    def send(self, *pieces: bytes) -> None:
        """Send bytes as one read."""
        self.connection.data_received(b"".join(pieces))

    def read(self) -> list[Frame]:
        """Return the frames that were written since the last time."""
        self.connection._outbox.flush()
        return frames_in(self.transport)

    def fields(self, number: int, fields: Sequence[Field], *, ends: bool = False) -> bytes:
        """Return a HEADERS frame."""
        flags = f.END_HEADERS | (f.END_STREAM if ends else 0)
        return f.frame(f.HEADERS, flags, number, self.encoder.encode(list(fields)))

    def end(self, number: int, *fields: Field) -> bytes:
        """Return the trailers of a call."""
        return self.fields(number, fields or OK, ends=True)


def message(content: bytes) -> bytes:
    """Return a message with its prefix."""
    return write_prefix(0, len(content)) + content


def data(number: int, *contents: bytes, end: bool = False) -> bytes:
    """Return a DATA frame of these messages."""
    return f.frame(f.DATA, f.END_STREAM if end else 0, number, b"".join(map(message, contents)))
