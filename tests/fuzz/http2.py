"""What strangers may do to connections: bytes in odd pieces, several connections at once, frames by the million.

`python -m tests.fuzz.http2 --frames 10000000` makes frames, most of them nearly right, until connections have looked at
so many; `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from hpack import Encoder

from polku.gateway.grpc.calls import BatchMethod, Method, StreamCall, StreamMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2 import frames as f
from polku.http2.connection import Connection
from polku.http2.header_blocks import Field
from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.rpc.status import Status, StatusCode
from tests.http2.peer import Echo, Transport, frames_in

LIMITS = ConnectionLimits(stream_window=5_000, connection_window=70_000, header_block=500, frame=20_000)
_MESSAGE = 3_000  # bytes: the largest that is taken
_PATHS = (b"/s/Batch", b"/s/Stream", b"/s/Nothing")
_CONNECTIONS = 3
_FRAMES = 150  # of one connection
_HEADERS: tuple[Sequence[Field], ...] = (
    (),
    ((b"grpc-encoding", b"gzip"),),
    ((b"grpc-timeout", b"100m"), (b"te", b"trailers")),
    ((b"content-length", b"11"),),
    ((b"Upper", b"case"),),
    ((b"x" * 30, b"y" * 300),),
)


class Result(NamedTuple):
    """What came of the bytes of one connection."""

    messages: dict[int, list[bytes]]  # by stream
    is_closing: bool
    faulted: set[int]  # streams that were reset, or that a fault of theirs ended


class Seen:
    """What a connection has made of its bytes."""

    def __init__(self, connection: CountingEcho | Grpc, transport: Transport) -> None:
        self.connection, self.transport = connection, transport

    def end(self) -> Result:
        """Check that the connection keeps nothing when it is over, and return what it has seen."""
        self.connection._outbox.flush()
        frames_in(self.transport)
        messages = self.connection.messages
        if isinstance(self.connection, Echo):
            messages = {number: [body] for number, body in self.connection.bodies.items()}
        result = Result(messages, self.transport.is_closing, self.connection.faulted)
        held = len(self.connection._tail)
        assert held <= f.HEAD_BYTES + LIMITS.frame, held
        self.connection.connection_lost(None)
        assert self.connection.open_streams == 0
        assert self.connection._outbox.unsent == 0
        assert getattr(self.connection, "unfinished", 0) == 0
        return result


class Counting(Connection):
    """A connection that counts the frames that it has looked at."""

    handled = 0  # by all of them

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.messages: dict[int, list[bytes]] = {}
        self.faulted: set[int] = set()

    def _refuse(self, number: int, code: f.ErrorCode) -> None:
        self.faulted.add(number)
        super()._refuse(number, code)

    def _frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        Counting.handled += 1
        super()._frame(kind, flags, number, payload)

    def _whole_message(self, data: bytes, number: int, start: int, stop: int, end: int) -> int:
        used = super()._whole_message(data, number, start, stop, end)
        Counting.handled += 2 if used else 0
        return used


class CountingEcho(Counting, Echo):
    """The same for a server that answers with the body."""


class Grpc(Counting, GrpcConnection):
    """The same for gRPC; it remembers the messages that came."""

    def _fail(self, stream: Stream, status: Status) -> None:
        self.faulted.add(stream.number)
        super()._fail(stream, status)


def _take(connection: GrpcConnection, calls: list[tuple[int, bytes]]) -> None:
    assert isinstance(connection, Grpc)
    for number, message in calls:
        connection.messages[number] = [message]
        connection.respond(number, message)


class _Answering:
    """Answer each message of a stream with itself."""

    def __init__(self, call: StreamCall) -> None:
        self._call = call

    def messages(self, messages: list[bytes]) -> bool:
        assert isinstance(self._call._connection, Grpc)
        self._call._connection.messages.setdefault(self._call._stream.number, []).extend(messages)
        for message in messages:
            self._call.send(message)
        return True

    def ended(self) -> None:
        self._call.finish(Status(StatusCode.OK))

    def drained(self) -> None:
        """Nothing waits for it."""

    def leave(self, status: Status) -> None:
        self._call.finish(status)

    def lost(self) -> None:
        """Nothing is kept."""


_METHODS: dict[bytes, Method] = {_PATHS[0]: BatchMethod(_take), _PATHS[1]: StreamMethod(_Answering)}


def talk_http2(data: bytes) -> None:
    """Send bytes to connections: whole, and in odd pieces among those of others, each says the same."""
    parts = [data, data[len(data) // 2 :], data[1:]][:_CONNECTIONS]
    _LOOP.run_until_complete(_compare(parts, Random(zlib.crc32(data))))


async def _compare(parts: Sequence[bytes], random: Random) -> None:
    for make in (_echo, _grpc):
        whole = [_alone(make, part) for part in parts]
        port = _port()
        among = [make(port) for _ in parts]
        waiting = [(seen, list(_pieces(part, random))) for seen, part in zip(among, parts, strict=True)]
        while waiting:
            seen, pieces = random.choice(waiting)
            if pieces:
                _receive(seen, pieces.pop(0))
            else:
                waiting.remove((seen, pieces))
        for one, other in zip(whole, among, strict=True):
            _check_same(one, other.end())


def _check_same(whole: Result, pieces: Result) -> None:
    """Check that both say the same, but for what came in one read with a fault of its call or connection."""
    assert whole.is_closing == pieces.is_closing
    for number in {*whole.messages, *pieces.messages} - whole.faulted - pieces.faulted:
        one, other = whole.messages.get(number, []), pieces.messages.get(number, [])
        assert one == other or (whole.is_closing and one == other[: len(one)])


def _alone(make: Callable[[GrpcPort], Seen], data: bytes) -> Result:
    seen = make(_port())
    _receive(seen, data)
    return seen.end()


def _receive(seen: Seen, data: bytes) -> None:
    if not seen.transport.is_closing:
        seen.connection.data_received(data)


def _pieces(data: bytes, random: Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = random.choice((1, 3, 8, 9, 10, 37, 500, 5_000))
        yield data[at : at + size]
        at += size


def _port() -> GrpcPort:
    places = Places("connections", total=10, each=10, idle_seconds=60)
    return GrpcPort(_METHODS, LIMITS, message_limit=_MESSAGE, places=places)


def _echo(port: GrpcPort) -> Seen:
    connection, transport = CountingEcho(LIMITS), Transport()
    _greet(connection, transport)
    return Seen(connection, transport)


def _grpc(port: GrpcPort) -> Seen:
    connection, transport = Grpc(port), Transport()
    _greet(connection, transport)
    return Seen(connection, transport)


def _greet(connection: Connection, transport: Transport) -> None:
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(f.PREFACE + f.settings({f.MAX_FRAME_SIZE: 20_000}))


class FrameMaker:
    """Make what one client sends: frames of calls that are mostly right, and some that are not."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._encoder = Encoder()
        self._next = 1
        self._open: list[int] = []

    def frames(self, count: int) -> bytes:
        """Return so many frames."""
        return b"".join(self._frame() for _ in range(count))

    def _frame(self) -> bytes:
        random = self._random
        choice = random.random()
        if choice < 0.35 or not self._open:
            return self._headers()
        if choice < 0.75:
            return self._data(random.choice(self._open))
        number = random.choice((0, *self._open, self._next, self._next + 6))
        flags = random.choice((0, 0, 1, 4, 8, 32, 255))
        if choice < 0.8:
            return f.window_update(random.choice((0, *self._open)), random.choice((1, 64, 5_000, 1 << 30)))
        if choice < 0.84:
            return f.rst_stream(random.choice(self._open), random.choice(list(f.ErrorCode)))
        if choice < 0.9:
            return f.frame(f.PING, flags & 1, 0, random.randbytes(8))
        if choice < 0.95:
            key = random.choice((f.INITIAL_WINDOW_SIZE, f.MAX_FRAME_SIZE, f.HEADER_TABLE_SIZE, 77))
            return f.settings({key: random.choice((0, 16_384, 20_000, 65_535))})
        if choice < 0.955:
            return f.frame(random.randrange(12), flags, number, random.randbytes(random.choice((0, 1, 4, 5, 8, 40))))
        if choice < 0.96:
            return random.randbytes(random.randint(1, 20))
        return self._data(random.choice(self._open))

    def _headers(self) -> bytes:
        random = self._random
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", random.choice(_PATHS))]
        fields += [(b"content-type", b"application/grpc"), *random.choice(_HEADERS)]
        block = self._encoder.encode(fields)
        number, self._next = self._next, self._next + 2
        ends = random.random() < 0.1
        if not ends:
            self._open.append(number)
        if random.random() < 0.9:
            return f.frame(f.HEADERS, f.END_HEADERS | (f.END_STREAM if ends else 0), number, block)
        at = random.randint(0, len(block))
        first = f.frame(f.HEADERS, f.END_STREAM if ends else 0, number, block[:at])
        return first + f.frame(f.CONTINUATION, f.END_HEADERS, number, block[at:])

    def _data(self, number: int) -> bytes:
        random = self._random
        body = random.randbytes(random.choice((0, 1, 6, 6, 6, 200)))
        size = len(body) if random.random() < 0.9 else random.choice((0, 1, 2_000, 4_000, 1 << 31))
        flag = 0 if random.random() < 0.95 else random.choice((1, 2, 255))
        message = bytes((flag,)) + size.to_bytes(4, "big") + body
        ends = random.random() < 0.5
        if ends:
            self._open.remove(number)
        flags = f.END_STREAM if ends else 0
        if random.random() < 0.1:
            padding = random.randrange(20)
            return f.frame(f.DATA, flags | f.PADDED, number, bytes((padding,)) + message + bytes(padding))
        return f.frame(f.DATA, flags, number, message)


def storm(frames: int, seed: int, seconds: float) -> int:
    """Send frames until connections have looked at so many, or for so long; return at how many they have looked."""
    Counting.handled = number = 0
    until = time.monotonic() + seconds
    while Counting.handled < frames and time.monotonic() < until:
        random = Random(f"{seed}/{number}")
        parts = [FrameMaker(random).frames(_FRAMES) for _ in range(_CONNECTIONS)]
        try:
            _LOOP.run_until_complete(_compare(parts, random))
        except BaseException:
            print(f"seed {seed}, round {number}")
            raise
        number += 1
    return Counting.handled


_LOOP = asyncio.new_event_loop()
atexit.register(_LOOP.close)


def main() -> None:
    """Send frames, and say how many."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http2", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    sent = storm(options.frames, options.seed, options.seconds)
    print(f"{sent:,} frames in {time.monotonic() - began:.0f} s, no finding")


if __name__ == "__main__":
    main()
