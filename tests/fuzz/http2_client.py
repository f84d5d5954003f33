"""What servers may do to the client's end of a connection: frames that are nearly right, whole and in odd pieces.

`python -m tests.fuzz.http2_client --frames 1000000` makes frames until so many were sent; `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from polku.http2 import frames as f
from polku.http2.header_blocks import Field
from polku.http2.limits import ConnectionLimits
from polku.rpc.client import request_head
from polku.rpc.status import Status
from tests.rpc.peer import Ear, Server, data

_LIMITS = ConnectionLimits(stream_window=5_000, connection_window=70_000, header_block=500, frame=20_000)
_CALLS = 8
_FRAMES = 100  # of one connection
_HEADS: tuple[Sequence[Field], ...] = (
    ((b":status", b"200"), (b"content-type", b"application/grpc")),
    ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-encoding", b"gzip")),
    ((b":status", b"100"),),
    ((b":status", b"404"), (b"content-type", b"text/html")),
    ((b"x", b"y" * 200),),
)
_TRAILERS: tuple[Sequence[Field], ...] = (
    ((b"grpc-status", b"0"),),
    ((b"grpc-status", b"14"), (b"grpc-message", b"%E4%FF full")),
    ((b"grpc-status", b"xx"),),
    ((b":status", b"200"),),
)


class Heard(NamedTuple):
    """What the calls of a connection heard, and whether it was closed for a fault."""

    messages: list[list[bytes]]
    statuses: list[Status | None]
    is_closing: bool


def frames(server: Server, random: Random) -> list[bytes]:
    """Return what a server sends to a client with `_CALLS` calls."""
    open_calls = list(range(1, 2 * _CALLS, 2))
    wire: list[bytes] = []
    for number in open_calls:
        wire.append(server.fields(number, random.choice(_HEADS[: random.choice((1, 1, 1, 5))])))
        if random.random() < 0.3:
            wire.append(data(number, random.randbytes(random.choice((0, 1, 30, 400)))))
            wire.append(server.end(number, *random.choice(_TRAILERS)))
    for _ in range(_FRAMES):
        number = random.choice(open_calls)
        choice = random.random()
        if choice < 0.6:
            wire.append(data(number, random.randbytes(random.choice((0, 1, 30, 400))), end=random.random() < 0.02))
        elif choice < 0.7:
            wire.append(server.end(number, *random.choice(_TRAILERS)))
        elif choice < 0.75:
            wire.append(f.window_update(random.choice((0, number)), random.choice((1, 5_000, 1 << 30))))
        elif choice < 0.78:
            wire.append(f.rst_stream(number, random.choice(list(f.ErrorCode))))
        elif choice < 0.84:
            wire.append(f.frame(f.PING, random.choice((0, 1)), 0, random.randbytes(8)))
        elif choice < 0.92:
            key = random.choice((f.INITIAL_WINDOW_SIZE, f.MAX_FRAME_SIZE, f.MAX_CONCURRENT_STREAMS))
            wire.append(f.settings({key: random.choice((0, 16_384, 65_535))}))
        elif choice < 0.93:
            wire.append(f.goaway(random.choice((0, number, f.STREAM_BITS)), random.choice(list(f.ErrorCode)), "gone"))
        elif choice < 0.94:
            payload = random.randbytes(random.choice((0, 1, 4, 5, 8, 40)))
            wire.append(f.frame(random.randrange(12), random.choice((0, 1, 4, 8, 255)), number, payload))
        else:
            wire.append(f.frame(f.DATA, f.PADDED, number, b"\x03" + b"\0\0\0\0\1x" + bytes(3)))
    return wire


async def _hear(wire: bytes, random: Random | None) -> Heard:
    server = Server(_LIMITS)
    ears: list[Ear] = []
    head = request_head("here:1", "/s/Talk", tls=False)
    for number in range(_CALLS):
        ears.append(ear := Ear())
        if number % 2:
            server.connection.ask(head, b"x", ear)
        else:
            server.connection.post(server.connection.begin(head, ear), [b"x"])
    at = 0
    while at < len(wire) and not server.transport.is_closing:
        size = len(wire) if random is None else random.choice((1, 8, 9, 10, 37, 500, 5_000))
        server.send(wire[at : at + size])
        at += size
    server.read()
    heard = [list(ear.messages) for ear in ears]
    closing = server.transport.is_closing
    server.connection.connection_lost(None)
    assert all(ear.status is not None for ear in ears), "every call ends"
    assert server.connection.unsent == 0
    assert server.connection.streams == {}
    return Heard(heard, [ear.status for ear in ears], closing)


def storm(count: int, seed: int, seconds: float) -> int:
    """Send so many frames, or for so long; return how many."""
    sent = number = 0
    until = time.monotonic() + seconds
    while sent < count and time.monotonic() < until:
        random = Random(f"{seed}/{number}")
        try:
            sent += asyncio.run(_compare(random))
        except BaseException:
            print(f"seed {seed}, round {number}")
            raise
        number += 1
    return sent


async def _compare(random: Random) -> int:
    wire = frames(Server(_LIMITS), random)
    whole, pieces = await _hear(b"".join(wire), None), await _hear(b"".join(wire), random)
    if not whole.is_closing:  # else what came in one read with the fault may have been handed on in pieces
        assert whole == pieces
    return len(wire)


def main() -> None:
    """Send frames, and say how many."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http2_client", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    sent = storm(options.frames, options.seed, options.seconds)
    print(f"{sent:,} frames in {time.monotonic() - began:.0f} s, no finding")


if __name__ == "__main__":
    main()
