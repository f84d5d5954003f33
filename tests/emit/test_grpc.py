"""The GrpcEmitter, against real gateways that work, refuse, break, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest

from polku import Batch, Event, Failure, GrpcEmitter, MisconfiguredError, RejectedError, RetryableError
from polku.clock import SystemClock
from polku.emit.grpc.client import GrpcClient
from polku.v1.gateway_pb2 import AckError, IngestBatch
from tests.emit.sink import Sink, sink


def batch(*ids: str, size: int = 0) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", payload=b"x" * size) for event_id in ids])


class Emitters(Protocol):
    """Build a running GrpcEmitter for these endpoints, and close it at the end."""

    def __call__(self, *endpoints: str, **options: Any) -> AbstractAsyncContextManager[GrpcClient]: ...


@pytest.fixture(params=["native", "grpcio"])
def emitter(request: pytest.FixtureRequest) -> Emitters:
    """Emitters of both clients, one after the other."""

    @asynccontextmanager
    async def build(*endpoints: str, **options: Any) -> AsyncIterator[GrpcClient]:
        running = GrpcEmitter(list(endpoints), client=request.param, **options).build(SystemClock())
        try:
            yield running
        finally:
            await running.close()

    return build


async def begun(running: GrpcClient, messages: int) -> None:
    """Wait until so many messages have begun to be written."""
    async with asyncio.timeout(30):
        while running.statistics().messages < messages:  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0.001)


@pytest.fixture
async def server() -> AsyncIterator[Sink]:
    async with sink() as server:
        yield server


async def test_a_batch_arrives_as_it_is_and_is_confirmed(server: Sink, emitter: Emitters) -> None:
    async with emitter(server.address, source="us", cluster="here", token="secret") as running:
        assert await running.emit(batch("a", "b")) == []
    (received,) = server.batches
    assert (received.source, received.cluster, server.ids) == ("us", "here", ["a", "b"])
    assert server.metadata[0]["authorization"] == "Bearer secret"


async def test_batches_under_way_together_keep_their_order(server: Sink, emitter: Emitters) -> None:
    async with emitter(server.address) as running:
        results = await asyncio.gather(*(running.emit(batch(f"{n:03d}")) for n in range(100)))
    assert results == [[]] * 100
    assert server.ids == [f"{n:03d}" for n in range(100)]


async def test_refused_events_are_failures_of_their_kind(server: Sink, emitter: Emitters) -> None:
    server.refuse = {"full": "BUFFER_FULL", "bad": "INVALID_EVENT", "gone": "FORGET"}.get
    async with emitter(server.address) as running:
        failures = {failure.event_id: failure for failure in await running.emit(batch("ok", "full", "bad", "gone"))}
    assert {event_id: failure.retryable for event_id, failure in failures.items()} == {
        "full": True,
        "bad": False,
        "gone": True,
    }
    assert "refused on request" in failures["bad"].reason


async def test_a_large_batch_is_split_and_a_too_large_event_named(server: Sink, emitter: Emitters) -> None:
    async with emitter(server.address, max_message_bytes=10_000) as running:
        assert await running.emit(batch(*map(str, range(10)), size=3_000)) == []
        (failure,) = await running.emit(batch("huge", size=20_000))
    assert server.ids == [str(n) for n in range(10)]
    assert len(server.batches) >= 4
    assert failure == Failure("huge", failure.reason, retryable=False, position=0)
    assert "10000" in failure.reason


async def test_a_destination_that_is_down_is_retryable_and_found_again(server: Sink, emitter: Emitters) -> None:
    port = server.port
    await server.stop()
    async with emitter(server.address, timeout=5) as running:
        with pytest.raises(RetryableError, match=str(port)):
            await running.emit(batch("early"))
        await server.start(port)
        for _ in range(100):
            try:
                assert await running.emit(batch("late")) == []
                break
            except RetryableError:
                await asyncio.sleep(0.05)
    assert server.ids == ["late"]


async def test_a_broken_stream_fails_what_is_open_and_the_next_batch_opens_another(
    server: Sink, emitter: Emitters
) -> None:
    server.break_after = 1
    async with emitter(server.address) as running:
        assert await running.emit(batch("first")) == []
        with pytest.raises(RetryableError, match="broken on request"):
            await running.emit(batch("second"))
        assert await running.emit(batch("third")) == []
        assert running.statistics().reconnects == 1


async def test_an_ack_of_another_message_confirms_nothing_and_the_next_one_opens_a_stream(
    server: Sink, emitter: Emitters
) -> None:
    server.answers = lambda batch: [server.batches[0]]
    async with emitter(server.address) as running:
        assert await running.emit(batch("first")) == []
        with pytest.raises(RetryableError, match="an Ack names none of the events of its message"):
            await running.emit(batch("second"))
        server.answers = lambda batch: [batch]
        assert await running.emit(batch("third")) == []
        assert running.statistics().reconnects == 1


async def test_acks_out_of_order_confirm_nothing(server: Sink, emitter: Emitters) -> None:
    server.answers = lambda batch: server.batches[::-1] if len(server.batches) == 2 else []
    async with emitter(server.address) as running:
        results = await asyncio.gather(*(running.emit(batch(name)) for name in "ab"), return_exceptions=True)
        assert [type(result) for result in results] == [RetryableError] * 2
        server.answers = lambda batch: [batch]
        assert await running.emit(batch("third")) == []


async def test_acks_too_many_are_dropped_or_end_the_stream(server: Sink, emitter: Emitters) -> None:
    server.answers = lambda batch: [batch] * 3
    async with emitter(server.address) as running:
        for name in "abcdef":  # an Ack that comes when nothing is open says nothing, and another one is found out
            for _ in range(3):
                with contextlib.suppress(RetryableError):
                    assert await running.emit(batch(name)) == []
                    break
            assert name in server.ids
    assert set(server.ids) == set("abcdef")


async def test_a_destination_that_never_answers_times_out(server: Sink, emitter: Emitters) -> None:
    server.silent = True
    async with emitter(server.address, timeout=0.2) as running:
        with pytest.raises(RetryableError, match=r"no Ack within 0\.2 s"):
            await running.emit(batch("a"))


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED])
async def test_wrong_credentials_or_services_are_misconfiguration(
    server: Sink, status: grpc.StatusCode, emitter: Emitters
) -> None:
    server.abort = status
    async with emitter(server.address) as running:
        with pytest.raises(MisconfiguredError, match=status.name):
            await running.emit(batch("a"))


async def test_the_least_loaded_endpoint_is_chosen(server: Sink, emitter: Emitters) -> None:
    async with sink() as other, emitter(server.address, other.address) as running:
        server.fullness, other.fullness = 90, 10
        for n in range(10):
            await running.emit(batch(str(n)))
    assert len(other.ids) >= 8


async def test_a_dead_endpoint_s_batches_go_to_another_and_return_once_it_is_back(
    server: Sink, emitter: Emitters
) -> None:
    async with sink() as other, emitter(server.address, other.address) as running:
        server.fullness = 50
        await asyncio.gather(*(running.emit(batch(str(n))) for n in range(4)))
        port = other.port
        await other.stop()
        for n in range(4, 14):
            assert await running.emit(batch(str(n))) == []
        assert set(server.ids) | set(other.ids) == {str(n) for n in range(14)}
        before = len(other.ids)
        await other.start(port)
        async with asyncio.timeout(30):
            while len(other.ids) == before:
                assert await running.emit(batch("again")) == []


async def test_an_endpoint_that_does_not_know_us_is_left_for_one_that_does(server: Sink, emitter: Emitters) -> None:
    server.abort = grpc.StatusCode.UNAUTHENTICATED
    async with sink() as other, emitter(server.address, other.address) as running:
        for name in "abc":
            assert await running.emit(batch(name)) == []
        assert running.statistics().failovers == 1
    assert other.ids == ["a", "b", "c"]


async def test_an_endpoint_that_takes_its_time_to_connect_is_reached(server: Sink, emitter: Emitters) -> None:
    async with late(server.port, 0.4) as port, emitter(f"127.0.0.1:{port}") as running:
        assert await running.emit(batch("a")) == []


async def test_a_size_limit_of_the_destination_is_learned(emitter: Emitters) -> None:
    async with sink(message_bytes=10_000) as server, emitter(server.address) as running:
        assert await running.emit(batch(*map(str, range(10)), size=3_000)) == []
        (failure,) = await running.emit(batch("huge", size=12_000))
        assert server.ids == [str(n) for n in range(10)]
    assert failure.event_id == "huge"
    assert not failure.retryable
    assert "10000" in failure.reason


async def test_a_message_of_too_many_events_is_sent_in_halves(server: Sink, emitter: Emitters) -> None:
    def at_most_three(batch: IngestBatch) -> AckError | None:
        many = len(batch.events.events) > 3
        return AckError(code="TOO_MANY_EVENTS", message="the limit is 3") if many else None

    server.refuse_whole = at_most_three
    async with emitter(server.address) as running:
        assert await running.emit(batch(*map(str, range(10)))) == []
    assert [len(message.events.events) for message in server.batches] == [10, 5, 2, 3, 5, 2, 3]


async def test_a_message_too_large_by_an_unknown_size_is_sent_in_halves(server: Sink, emitter: Emitters) -> None:
    server.break_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    server.break_text = "Received message exceeds the maximum configured message size."
    server.break_after = 0
    async with emitter(server.address) as running:
        assert await running.emit(batch("a", "b", "c")) == []
        server.break_after = 2
        (failure,) = await running.emit(batch("alone"))
    assert not failure.retryable
    assert "maximum configured" in failure.reason
    assert [len(message.events.events) for message in server.batches] == [1, 2]


async def test_a_message_that_is_invalid_as_a_whole_is_sent_in_halves(server: Sink, emitter: Emitters) -> None:
    server.break_after, server.break_code = 0, grpc.StatusCode.INVALID_ARGUMENT
    async with emitter(server.address) as running:
        assert await running.emit(batch("a", "b", "c")) == []
    assert [len(message.events.events) for message in server.batches][-2:] == [1, 2]


async def test_of_several_messages_under_way_none_is_blamed_for_an_invalid_one(server: Sink, emitter: Emitters) -> None:
    server.break_after, server.break_code = 1, grpc.StatusCode.INVALID_ARGUMENT
    server.hold()
    async with emitter(server.address) as running:
        tasks = [asyncio.ensure_future(running.emit(batch(name))) for name in "abc"]
        await begun(running, 3)
        server.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [list, RetryableError, RetryableError]
        server.break_after = 0
        with pytest.raises(RejectedError, match="broken on request"):
            await running.emit(batch("b"))


async def test_what_is_not_a_gateway_is_misconfiguration(emitter: Emitters) -> None:
    async def talk(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            await context.write(b"\xff\xff no Ack")

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    methods = {"StreamEvents": grpc.stream_stream_rpc_method_handler(talk)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.Gateway", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with emitter(f"127.0.0.1:{port}") as running:
        with pytest.raises(MisconfiguredError, match="sends no Acks"):
            await running.emit(batch("a"))
    await server.stop(0)


async def test_a_socket_of_this_machine_will_do(tmp_path: Path, emitter: Emitters) -> None:
    server = Sink()
    await server.start(address=f"unix:{tmp_path}/gateway")
    async with emitter(f"unix:{tmp_path}/gateway") as running:
        assert await running.emit(batch("a")) == []
    await server.stop()


async def test_an_encrypted_connection_is_checked_against_the_given_certificate(
    tmp_path: Path, emitter: Emitters
) -> None:
    key, certificate = certify(tmp_path)
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    async with sink(credentials=credentials) as server:
        address = f"https://localhost:{server.port}"
        async with emitter(address, root_certificates=certificate) as running:
            assert await running.emit(batch("a")) == []
        async with emitter(address, timeout=5) as running:
            with pytest.raises(RetryableError):
                await running.emit(batch("b"))
    assert server.ids == ["a"]


async def test_closing_waits_for_open_acks(server: Sink) -> None:
    server.hold()
    running = GrpcEmitter(server.address).build(SystemClock())
    emitted = asyncio.ensure_future(running.emit(batch("a")))
    await server.arrived(1)
    closed = asyncio.ensure_future(running.close())
    await asyncio.sleep(0)
    server.release()
    assert await emitted == []
    await closed
    await running.close()


async def test_closing_fails_what_is_never_acknowledged(server: Sink) -> None:
    server.silent = True
    running = GrpcEmitter(server.address).build(SystemClock())
    emitted = asyncio.ensure_future(running.emit(batch("a")))
    await server.arrived(1)
    async with asyncio.timeout(30):
        await running.close()
        with pytest.raises(RetryableError, match="closed"):
            await emitted
        with pytest.raises(RetryableError, match="closed"):
            await running.emit(batch("b"))


async def test_a_cancelled_call_ends_at_once_and_the_others_go_on(server: Sink, emitter: Emitters) -> None:
    server.hold()
    async with emitter(server.address) as running:
        tasks = [asyncio.ensure_future(running.emit(batch(name))) for name in "abc"]
        await begun(running, 3)  # writing the third begins when the second is written
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        server.release()
        assert [await task for task in (tasks[0], tasks[2])] == [[], []]


@asynccontextmanager
async def late(port: int, delay: float) -> AsyncIterator[int]:
    """Forward connections to a port after a while, as a distant or encrypted one would; yield the port for it."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await asyncio.sleep(delay)
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(other_writer)
        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    writers: list[asyncio.StreamWriter] = []
    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with proxy:
        try:
            yield proxy.sockets[0].getsockname()[1]
        finally:
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def certify(folder: Path) -> tuple[bytes, bytes]:
    """Make a key and its own certificate for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    algorithm = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *algorithm, *files, *subject], check=True, capture_output=True)
    return key.read_bytes(), certificate.read_bytes()
