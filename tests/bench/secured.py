"""What TLS and tokens cost on streams: events a second and CPU of the gateway, in turns with one that has neither.

    python -m tests.bench.secured --rounds 5 --events 300000 --batch 1000 --batch 10

The gateway is `polku run` with an emitter that does nothing; one client keeps 32 batches of one stream in flight.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from polku import Event
from polku.security.token_file import file_lines
from polku.v1.gateway_pb2 import EventPayload, IngestBatch
from tests.attacks.lab import Gateway
from tests.support.authority import Authority

IN_FLIGHT = 32
_MESSAGES = 20_000  # at most: small ones take their time
TOKEN = "a-token-of-the-usual-length-as-polku-makes-them"
HUB = "from polku import Hub\n\n\ndef take(batch):\n    pass\n\n\nhub = Hub(runtime='inline').emitter(take)\n"
VARIANTS = {
    "neither": (),
    "TLS": ("tls",),
    "token": ("token",),
    "TLS and token": ("tls", "token"),
    "TLS and token, 100 sources": ("tls", "token", "sources"),
}


class Measured(NamedTuple):
    """Events a second, and microseconds of the gateway's CPU for each."""

    rate: float
    cpu: float


def batch(size: int, payload: int) -> bytes:
    """Return a serialised batch; ids may appear twice in different batches."""
    events = [Event(id=f"event-{n}", event_type="t", source="agent-1", timestamp_unix_ns=1) for n in range(size)]
    for event in events:
        event.payload = bytes(payload)
    return IngestBatch(events=EventPayload(events=events)).SerializeToString()


def measure(folder: Path, parts: Sequence[str], message: bytes, size: int, events: int) -> Measured:
    """Send that many events to a new gateway."""
    arguments: list[str] = []
    credentials, metadata = None, tuple[tuple[str, str], ...]()
    if "tls" in parts:
        authority = Authority(folder / "ca")
        pair = authority.issue()
        arguments += ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
    if "token" in parts:
        sources = [f"agent-{n}" for n in range(100)] if "sources" in parts else ["*"]
        (folder / "tokens.toml").write_text(file_lines("agents", TOKEN, {"sources": sources}, None))
        arguments += ["--tokens", str(folder / "tokens.toml")]
        metadata = (("authorization", f"Bearer {TOKEN}"),)
    gateway = Gateway(folder, "native", hub=HUB, arguments=arguments)
    try:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = (
            grpc.insecure_channel(gateway.grpc, options)
            if credentials is None
            else grpc.secure_channel(gateway.grpc, credentials, options)
        )
        with channel:
            send(channel, metadata, message, max(IN_FLIGHT, events // size // 10))
            cpu, began = gateway.cpu(), time.monotonic()
            count = events // size
            send(channel, metadata, message, count)
            seconds = time.monotonic() - began
            return Measured(count * size / seconds, 1e6 * (gateway.cpu() - cpu) / (count * size))
    finally:
        gateway.stop()


def send(channel: grpc.Channel, metadata: Any, message: bytes, count: int) -> None:
    """Send a message that many times over one stream, and read its Acks."""
    room = threading.Semaphore(IN_FLIGHT)

    def messages() -> Iterator[bytes]:
        for _ in range(count):
            room.acquire()
            yield message

    acks = 0
    for _ in channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, None)(messages(), metadata=metadata):
        acks += 1
        room.release()
    assert acks == count


def compare(
    sizes: Sequence[int], variants: Sequence[str], payload: int, events: int, rounds: int
) -> dict[tuple[int, str], list[Measured]]:
    """Measure all in turns; return the rounds by the events of a batch and the variant."""
    found: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    for number in range(rounds):
        for size in sizes:
            message = batch(size, payload)
            for name in variants:
                with tempfile.TemporaryDirectory() as folder:
                    count = max(size, min(events, size * _MESSAGES))
                    found[size, name].append(measure(Path(folder), VARIANTS[name], message, size, count))
                print(f"round {number + 1}, {size}, {name}: {found[size, name][-1]}", file=sys.stderr, flush=True)
    return found


def share_of(rounds: Sequence[Measured], bare: Sequence[Measured]) -> float:
    """Return the median share of the rate of the gateway with neither."""
    return statistics.median(one.rate / other.rate for one, other in zip(rounds, bare, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--size", type=int, default=130, help="bytes of a payload")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = compare(options.batch or [1_000, 10], list(VARIANTS), options.size, options.events, options.rounds)
    print("| events of a batch | gateway with | events/s | of the rate with neither | µs of CPU an event |")
    print("|---|---|---|---|---|")
    for (size, name), rounds in found.items():
        ratio = share_of(rounds, found[size, "neither"])
        rate, cpu = (statistics.median(getattr(one, field) for one in rounds) for field in ("rate", "cpu"))
        print(f"| {size:,} | {name} | {rate:,.0f} | {ratio:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
