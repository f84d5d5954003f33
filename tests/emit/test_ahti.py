"""The AhtiEmitter, against real AHTI servers that work, refuse, break, die, and come back."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import (
    AhtiEmitter,
    Batch,
    Breaker,
    Event,
    Failure,
    Hub,
    MisconfiguredError,
    PlanError,
    Resilience,
    Retry,
    RetryableError,
    new_event,
)
from polku.ahti.v1.events_pb2 import AhtiEvent, AhtiHealthRequest
from polku.ahti.v1.events_pb2_grpc import AhtiServiceStub
from polku.clock import SystemClock
from polku.emit.ahti.client import AhtiClient
from polku.testing.ahti import AhtiServer, read_store
from tests.emit.test_grpc import certify


def batch(*ids: str, size: int = 0) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", metadata={"x": "y" * size}) for event_id in ids])


@asynccontextmanager
async def emitter(*endpoints: str, **options: Any) -> AsyncIterator[AhtiClient]:
    running = AhtiEmitter(list(endpoints), **options).build(SystemClock())
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture
async def ahti() -> AsyncIterator[AhtiServer]:
    async with AhtiServer() as server:
        yield server


def refuse(server: AhtiServer, *bad: str, error: str = "no such cluster") -> None:
    server.refuse = lambda events: error if any(event.id in bad for event in events) else None


async def test_a_batch_is_one_message_and_its_ack_the_confirmation(ahti: AhtiServer) -> None:
    event = Event(id="a", event_type="k8s.pod.created", metadata={"name": "web", "resource": "pod"})
    event.k8s.resource_name = "web"
    async with emitter(ahti.address, token="secret") as running:
        assert await running.emit(Batch.from_events([event, Event(id="b")])) == []
    ((first, second),) = ahti.batches
    assert (first.subtype, first.entities[0].name, first.k8s.resource_name) == ("pod.created", "web", "web")
    assert second.id == "b"
    assert ahti.metadata[0]["authorization"] == "Bearer secret"


async def test_batches_under_way_together_keep_their_order(ahti: AhtiServer) -> None:
    async with emitter(ahti.address) as running:
        assert await asyncio.gather(*(running.emit(batch(f"{n:03d}")) for n in range(100))) == [[]] * 100
    assert ahti.ids == [f"{n:03d}" for n in range(100)]


async def test_an_ack_without_ids_confirms_the_batch(ahti: AhtiServer) -> None:
    ahti.names = lambda events: []
    async with emitter(ahti.address) as running:
        assert await running.emit(batch("a", "b")) == []


async def test_an_event_that_the_ack_does_not_name_is_tried_again(ahti: AhtiServer) -> None:
    ahti.names = lambda events: [event.id for event in events if event.id != "b"]
    async with emitter(ahti.address) as running:
        assert await running.emit(batch("a", "b")) == [Failure("b", "the ack does not name it", position=1)]


async def test_a_refused_batch_fails_with_its_error(ahti: AhtiServer) -> None:
    ahti.refuse = lambda events: "graph is read-only"
    async with emitter(ahti.address) as running:
        with pytest.raises(RetryableError, match="graph is read-only"):
            await running.emit(batch("a", "b", "c"))
        ahti.refuse = lambda events: ""
        with pytest.raises(RetryableError, match="gave no reason"):
            await running.emit(batch("a"))
    assert ahti.ids == []


@pytest.mark.parametrize("bad", ["a", "d", "h", "de", "bh"])
async def test_the_events_at_fault_are_found_and_the_others_delivered_once_and_in_order(
    ahti: AhtiServer, bad: str
) -> None:
    refuse(ahti, *bad)
    failures: list[Failure] = []
    async with emitter(ahti.address, refusals=2) as running:
        left = list("abcdefgh")
        while left:
            try:
                found = await running.emit(batch(*left))
            except RetryableError:
                continue
            failures += [failure for failure in found if not failure.retryable]
            left = [failure.event_id for failure in found if failure.retryable]
    assert [failure._replace(position=-1) for failure in failures] == [
        Failure(name, "no such cluster", retryable=False) for name in bad
    ]
    assert ahti.ids == [name for name in "abcdefgh" if name not in bad]


async def test_a_lone_event_is_given_up_after_so_many_refusals_in_a_row(ahti: AhtiServer) -> None:
    refuse(ahti, "bad")
    async with emitter(ahti.address, refusals=3) as running:
        for _ in range(2):
            with pytest.raises(RetryableError, match="no such cluster"):
                await running.emit(batch("bad"))
        assert await running.emit(batch("bad")) == [Failure("bad", "no such cluster", retryable=False, position=0)]


async def test_a_stream_that_ends_without_an_ack_is_a_failure(ahti: AhtiServer) -> None:
    ahti.end_after = 0
    async with emitter(ahti.address) as running:
        with pytest.raises(RetryableError, match="stream ended"):
            await running.emit(batch("a"))
        assert await running.emit(batch("a")) == []
    assert ahti.ids == ["a"]


async def test_an_ack_that_never_comes_is_a_failure(ahti: AhtiServer) -> None:
    ahti.hold()
    async with emitter(ahti.address, timeout=0.3) as running:
        with pytest.raises(RetryableError, match=r"no Ack within 0\.3 s"):
            await running.emit(batch("a"))
        ahti.release()
        assert await running.emit(batch("a")) == []


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED])
async def test_wrong_credentials_or_services_are_misconfiguration(ahti: AhtiServer, status: grpc.StatusCode) -> None:
    ahti.abort = status
    async with emitter(ahti.address) as running:
        with pytest.raises(MisconfiguredError, match=status.name):
            await running.emit(batch("a"))


@pytest.mark.parametrize("limit", ["ours", "theirs"])
async def test_a_large_batch_is_split_and_a_too_large_event_named(limit: str) -> None:
    ours, theirs = (10_000, -1) if limit == "ours" else (4_000_000, 10_000)
    async with AhtiServer(message_bytes=theirs) as ahti, emitter(ahti.address, max_message_bytes=ours) as running:
        left = [batch(*map(str, range(10)), size=3_000), batch("huge", size=20_000), batch("last")]
        outcomes = []
        for one in left:
            for _ in range(3):
                try:
                    outcomes.append(await running.emit(one))
                    break
                except RetryableError:
                    continue
    assert ahti.ids == [*map(str, range(10)), "last"]
    assert len(ahti.batches) >= 5
    assert outcomes[0] == outcomes[2] == []
    (failure,) = outcomes[1]
    assert (failure.event_id, failure.retryable) == ("huge", False)
    assert "10000" in failure.reason


async def test_of_several_endpoints_a_dead_one_is_done_without(ahti: AhtiServer) -> None:
    async with AhtiServer() as other, emitter(ahti.address, other.address) as running:
        for n in range(10):
            assert await running.emit(batch(str(n))) == []
        assert ahti.ids
        assert other.ids
        await other.stop()
        for n in range(10, 20):
            assert await running.emit(batch(str(n))) == []
    assert sorted(ahti.ids + other.ids, key=int) == [str(n) for n in range(20)]


async def test_an_encrypted_connection_is_checked_against_the_given_certificate(tmp_path: Path) -> None:
    key, certificate = certify(tmp_path)
    async with AhtiServer(credentials=grpc.ssl_server_credentials([(key, certificate)])) as ahti:
        async with emitter(ahti.address, root_certificates=certificate) as running:
            assert await running.emit(batch("a")) == []
        async with emitter(ahti.address, timeout=5) as running:
            with pytest.raises(RetryableError):
                await running.emit(batch("b"))
    assert ahti.ids == ["a"]


async def test_the_small_server_speaks_the_whole_service(ahti: AhtiServer) -> None:
    async with grpc.aio.insecure_channel(f"localhost:{ahti.port}") as channel:
        stub = AhtiServiceStub(channel)
        ack = await stub.SendEvent(AhtiEvent(id="one"))
        assert (ack.success, list(ack.event_ids)) == (True, ["one"])
        assert (await stub.Health(AhtiHealthRequest())).healthy
    assert ahti.ids == ["one"]


def start_process(store: Path, address: str = "127.0.0.1:0") -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "polku.testing.ahti", "--address", address, "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.wait(120)
    assert process.stdout is not None
    process.stdout.close()


def test_a_pipeline_loses_nothing_while_the_server_s_process_is_killed_again_and_again(tmp_path: Path) -> None:
    process, address = start_process(tmp_path / "store")
    ids: list[str] = []
    try:
        patient = Resilience(AhtiEmitter(address), retry=Retry(limit=0.3), breaker=Breaker(open_for=0.3))
        with Hub(runtime="inline").emitter(patient).start() as pipeline:
            sender = pipeline.sender()
            for number in range(80):
                ids += sender.send([new_event("t", id=f"{number}-{n}") for n in range(50)]).event_ids
                if number in (10, 30, 50):
                    end(process, signal.SIGKILL)
                elif number in (20, 40, 60):
                    process, _ = start_process(tmp_path / "store", address.removeprefix("http://"))
            report = pipeline.stop(timeout=60)
    finally:
        end(process, signal.SIGTERM)
    stored = Counter(event.id for event in read_store(tmp_path / "store"))
    assert len(ids) == 4_000, report
    assert set(ids) == set(stored)
    assert sum(stored.values()) < 2 * len(ids)  # at least once, and not everything again


def test_it_is_a_value_that_can_be_pickled_and_keeps_its_secret() -> None:
    config = AhtiEmitter("http://a:1, b:2", token="secret")
    assert config.endpoint == ("http://a:1", "b:2")
    assert pickle.loads(pickle.dumps(config)) == config
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("endpoint", "options", "message"),
    [
        ([], {}, "endpoint"),
        ("", {}, "endpoint"),
        (None, {}, "endpoint"),
        ("http://a:1,", {}, "endpoint=''"),
        ("localhost", {}, "endpoint='localhost' has no port"),
        ("host:1", {"timeout": 0}, "timeout=0"),
        ("host:1", {"window": 0}, "window=0"),
        ("host:1", {"refusals": 0}, "refusals=0"),
        ("host:1", {"max_message_bytes": "1"}, "max_message_bytes='1'"),
        ("host:1", {"token": "two\nlines"}, "token must be"),
        ("host:1", {"root_certificates": 5}, "root_certificates must be"),
    ],
)
def test_a_wrong_setting_is_named(endpoint: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match="AhtiEmitter") as caught:
        AhtiEmitter(endpoint, **options)
    assert message in str(caught.value)
