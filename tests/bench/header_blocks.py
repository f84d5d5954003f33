"""What the headers of a call cost to read, in µs: the same with each call, and with a deadline or a trace of its own.

    python -m tests.bench.header_blocks

Blocks are made as grpc-go makes them: `grpc-timeout` and `traceparent` go into the table of the connection with each
call, which then changes, so that nothing can be kept of a block that was seen before. The `hpack` library reads such
blocks next to it. The ways take turns, and the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from hpack import Decoder, Encoder

from polku.gateway.grpc.calls import BatchMethod
from polku.gateway.grpc.heads import HeadReader
from polku.http2.header_blocks import Field, HeadCache, HeaderReader

_ROUNDS, _CALLS = 20, 200
_PATH = b"/polku.v1.Gateway/SendEvent"
FIELDS: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", _PATH),
    (b":authority", b"gateway.example:50051"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-go/1.85.0"),
    (b"te", b"trailers"),
]
VARYING = {"none": (), "a deadline": (b"grpc-timeout",), "a deadline and a trace": (b"grpc-timeout", b"traceparent")}


def blocks(names: tuple[bytes, ...]) -> Iterator[bytes]:
    """Return the blocks of a connection's calls, one after the other; the named fields are others in each."""
    encoder, number = Encoder(), 0
    while True:
        number += 1
        values = {
            b"grpc-timeout": b"%dn" % (99_999_999 - number),
            b"traceparent": b"00-%032x-%016x-01" % (number, number),
        }
        yield encoder.encode([*FIELDS, *((name, values[name]) for name in names)])


def ours() -> Callable[[bytes], object]:
    """Return what a connection reads blocks by."""
    reader = HeaderReader(list_bytes=16 << 10, table_bytes=4096)
    cache, heads = HeadCache(reader), HeadReader({_PATH: BatchMethod(lambda connection, calls: None)})

    def read(block: bytes) -> object:
        head = cache.get(block)
        return cache.read(block, heads.read) if head is None else head

    return read


def library() -> Callable[[bytes], object]:
    """Return what the library reads the fields of blocks by; what they mean is not read."""
    decoder = Decoder()
    return lambda block: decoder.decode(block, raw=True)


def measure(names: tuple[bytes, ...]) -> dict[str, float]:
    """Return µs a block of both."""
    ways = {"ours": (ours(), blocks(names)), "the library": (library(), blocks(names))}
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(_ROUNDS):
        for name, (read, made) in ways.items():
            some = [next(made) for _ in range(_CALLS)]
            began = time.process_time()
            for block in some:
                read(block)
            least[name] = min(least[name], (time.process_time() - began) / _CALLS * 1e6)
    return least


def main() -> None:
    argparse.ArgumentParser(prog="python -m tests.bench.header_blocks", description=__doc__).parse_args()
    print("| what changes with each call | µs a call | the `hpack` library alone |\n|---|---|---|")
    for name, names in VARYING.items():
        found = measure(names)
        print(f"| {name} | {found['ours']:.1f} | {found['the library']:.1f} |")


if __name__ == "__main__":
    main()
