"""The GrpcEmitter's own client, against servers of other languages: grpc-go, grpc-js, grpc-netty and tonic."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polku import Batch, Event, GrpcEmitter, RetryableError
from polku.clock import SystemClock
from polku.emit.grpc.client import GrpcClient
from tests.clients import toolchains

Build = Callable[[Path], list[str]]
SINKS: dict[str, Build] = {"node": toolchains.node_sink}
SLOW: dict[str, Build] = {"go": toolchains.go_sink, "java": toolchains.java_sink, "rust": toolchains.rust_sink}
_BUILT_FOR_LONG = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first build takes minutes


class Sink:
    """A running sink, and the ids that it took, in order."""

    def __init__(self, command: list[str], address: str = "127.0.0.1:0") -> None:
        self.ids: list[str] = []
        self._process = subprocess.Popen([*command, address], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        word, self.address = self._process.stdout.readline().split()
        assert word == "ready"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def leave(self) -> None:
        """Ask the clients to leave."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Wait until it has ended, and return its exit status."""
        status = self._process.wait(30)
        self._reader.join(30)
        return status

    def close(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            self._process.kill()
        self.ended()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.ids.extend(line.strip() for line in self._process.stdout)


@pytest.fixture(scope="module", params=[*SINKS, *(pytest.param(name, marks=_BUILT_FOR_LONG) for name in SLOW)])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return {**SINKS, **SLOW}[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def start(command: list[str]) -> Iterator[Callable[..., Sink]]:
    started: list[Sink] = []

    def begin(address: str = "127.0.0.1:0") -> Sink:
        started.append(Sink(command, address))
        return started[-1]

    yield begin
    for sink in started:
        sink.close()


def batch(first: int, count: int, size: int = 10) -> Batch:
    return Batch.from_events(
        [Event(id=f"{number:07d}", event_type="t", payload=b"x" * size) for number in range(first, first + count)]
    )


async def confirmed(running: GrpcClient, events: Batch) -> None:
    """Send a batch until it is confirmed."""
    async with asyncio.timeout(30):
        while True:
            try:
                assert await running.emit(events) == []
                return
            except RetryableError:
                await asyncio.sleep(0.05)


async def test_batches_of_all_sizes_are_confirmed_in_order(start: Callable[..., Sink]) -> None:
    sink = start()
    running = GrpcEmitter(f"http://{sink.address}").build(SystemClock())
    sizes = [(1, 0), (1_000, 100), (10, 1_000), (3, 1_000_000), (1, 3_900_000), (5_000, 130), *[(7, 50)] * 40]
    first, sending = 0, []
    for count, size in sizes:
        sending.append(asyncio.ensure_future(running.emit(batch(first, count, size))))
        first += count
    assert await asyncio.gather(*sending) == [[]] * len(sizes)
    statistics = running.statistics()
    assert (statistics.messages, statistics.acks, statistics.reconnects) == (len(sizes), len(sizes), 0)
    await running.close()
    sink.leave()
    assert sink.ended() == 0
    assert sink.ids == [f"{number:07d}" for number in range(first)]


async def test_a_server_that_leaves_for_another_loses_nothing_and_no_message_fails(start: Callable[..., Sink]) -> None:
    sink = start()
    running = GrpcEmitter(f"http://{sink.address}").build(SystemClock())
    for number in range(20):
        assert await running.emit(batch(number, 1)) == []
    under_way = [asyncio.ensure_future(running.emit(batch(20 + number, 1))) for number in range(8)]
    await asyncio.sleep(0)
    sink.leave()
    assert await asyncio.gather(*under_way) == [[]] * 8
    assert await asyncio.to_thread(sink.ended) == 0
    other = start(sink.address)
    for number in range(28, 40):
        await confirmed(running, batch(number, 1))
    await running.close()
    other.leave()
    assert other.ended() == 0
    assert [*sink.ids, *other.ids] == [f"{number:07d}" for number in range(40)]


async def test_the_size_that_a_server_takes_is_learned(start: Callable[..., Sink]) -> None:
    """All refuse messages of more than 4 MiB, with sentences of their own."""
    sink = start()
    running = GrpcEmitter(f"http://{sink.address}", max_message_bytes=20_000_000).build(SystemClock())
    assert await running.emit(batch(0, 10, 1_000_000)) == []
    (failure,) = await running.emit(batch(10, 1, 5_000_000))
    await running.close()
    assert not failure.retryable
    assert "limit is 4194304" in failure.reason
    sink.leave()
    sink.ended()
    assert sorted(set(sink.ids)) == [f"{number:07d}" for number in range(10)]
