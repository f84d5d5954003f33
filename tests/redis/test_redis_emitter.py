"""The emitter of Redis Streams, against a real redis-server: where it writes, and what it makes of refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polku import (
    Event,
    Hub,
    MisconfiguredError,
    RedisStreamsEmitter,
    RedisStreamsSource,
    RetryableError,
    Secret,
)
from polku.clock import SystemClock
from tests.redis.server import Server, needs_redis
from tests.redis.streams import wait_for
from tests.support.emitting import emit
from tests.support.recorder import Recorder

pytestmark = needs_redis


def test_the_emitter_routes_by_template_and_bounds_streams(server: Server, client: Any, stream: str) -> None:
    emitter = RedisStreamsEmitter(f"{stream}.{{source}}", url=server.url, max_len=10).build(SystemClock())
    events = [Event(id=f"{number}", source="a") for number in range(500)]
    failures = emit(emitter, *events, Event(id="none"), Event(id="b", source="b", metadata={"traceparent": "00-1"}))
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("none", False)]
    assert "stream: the event has no source" in failures[0].reason
    assert 10 <= client.xlen(f"{stream}.a") < 300
    ((_, fields),) = client.xrange(f"{stream}.b")
    assert fields[b"traceparent"] == b"00-1"
    assert Event.FromString(fields[b"data"]).id == "b"


def test_a_key_of_another_kind_holds_everything_or_only_what_chose_it(server: Server, client: Any, stream: str) -> None:
    client.set(stream, "text")
    with pytest.raises(MisconfiguredError, match="WRONGTYPE"):
        emit(RedisStreamsEmitter(stream, url=server.url).build(SystemClock()), Event(id="a"))
    chosen = RedisStreamsEmitter("{source}", url=server.url).build(SystemClock())
    failures = emit(chosen, Event(id="a", source=stream), Event(id="b", source=f"{stream}-fine"))
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", False)]
    assert client.xlen(f"{stream}-fine") == 1


def test_a_full_memory_is_tried_again(stream: str) -> None:
    server = Server("--maxmemory", "100mb", "--maxmemory-policy", "noeviction")
    try:
        with server.client() as client:
            client.config_set("maxmemory", 1)
            emitter = RedisStreamsEmitter(stream, url=server.url).build(SystemClock())
            (failure,) = emit(emitter, Event(id="a"))
            assert failure.retryable
            assert "OutOfMemoryError" in failure.reason
            client.config_set("maxmemory", 0)
            assert emit(emitter, Event(id="a")) == []
    finally:
        server.close()


def test_credentials_that_are_refused_are_an_alarm_until_they_are_right(tmp_path: Path, stream: str) -> None:
    server, secret, out = Server("--requirepass", "right"), tmp_path / "secret", Recorder(tmp_path / "out")
    try:
        secret.write_text("wrong")
        password = Secret(f"file:{secret}")
        with pytest.raises(MisconfiguredError, match="AuthenticationError"):
            emit(RedisStreamsEmitter(stream, url=server.url, password=password).build(SystemClock()), Event(id="a"))
        source = RedisStreamsSource(stream, "g", url=server.url, password=password)
        with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
            wait_for(lambda: not pipeline.health().components["source:redis"][0])
            secret.write_text("right")
            emit(RedisStreamsEmitter(stream, url=server.url, password=password).build(SystemClock()), Event(id="a"))
            assert [event.id for event in out.wait_for(1)] == ["a"]
    finally:
        server.close()


def _takes(emitter: RedisStreamsEmitter, event: Event) -> bool:
    try:
        return emit(emitter.build(SystemClock()), event) == []
    except RetryableError:
        return False


def test_a_batch_that_replicas_must_have_waits_for_them(server: Server, stream: str) -> None:
    emitter = RedisStreamsEmitter(stream, url=server.url, replicas=1, timeout=4.0)
    with pytest.raises(RetryableError, match="0 of 1 replicas have the entries"):
        emit(emitter.build(SystemClock()), Event(id="a"))
    replica = Server("--replicaof", "127.0.0.1", str(server.port))
    try:
        with replica.client() as client:
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")
            patient = RedisStreamsEmitter(stream, url=server.url, replicas=1)
            wait_for(lambda: _takes(patient, Event(id="b")))  # the other end of the link may be up later
            wait_for(lambda: client.xlen(stream) >= 2)
    finally:
        replica.close()
