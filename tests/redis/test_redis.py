"""Redis Streams in both directions, against a real redis-server."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from polku import (
    BufferStrategy,
    Event,
    Hub,
    PlanError,
    RedisStreamsEmitter,
    RedisStreamsSource,
    Source,
)
from polku.clock import SystemClock
from polku.redis.client import server_of
from polku.testing import EmitterCheck, SourceCheck, emitter_checks, source_checks
from tests.redis.destination import Redis
from tests.redis.origin import RedisOrigin
from tests.redis.server import Server, needs_redis
from tests.redis.streams import pending, wait_for, write
from tests.support.recorder import Recorder
from tests.tracing.spans import InMemory, id_of, parent_of

pytestmark = needs_redis


@pytest.mark.parametrize("check", emitter_checks(Redis.abilities), ids=str)
async def test_the_emitter_keeps_the_contract(check: EmitterCheck) -> None:
    await check.run(Redis())


@pytest.mark.parametrize("check", source_checks(RedisOrigin.abilities), ids=str)
async def test_the_source_keeps_the_contract(check: SourceCheck) -> None:
    await check.run(RedisOrigin())


def test_entries_become_events_and_are_acknowledged(server: Server, client: Any, stream: str, out: Recorder) -> None:
    write(client, stream, 1_200)
    with Hub(runtime="inline").source(RedisStreamsSource(stream, "g", url=server.url)).emitter(out).start() as pipeline:
        got = out.wait_for(1_200)
        wait_for(lambda: pending(client, stream) == 0)
        healthy, text = pipeline.health().components["source:redis"]
        assert healthy
        assert text.startswith("1200 entries, 0 of them claimed, 0 in flight")
        assert pipeline.stop(30).complete
    assert [event.id for event in got] == [f"e{number:05d}" for number in range(1_200)]
    assert client.xlen(stream) == 1_200
    assert client.xinfo_consumers(stream, "g") == [], "it leaves the group with nothing to answer for"


def test_the_pipeline_that_reads_goes_on_with_the_trace_of_the_one_that_sent(
    server: Server, stream: str, out: Recorder
) -> None:
    sending, reading = InMemory(), InMemory()
    emitter = RedisStreamsEmitter(stream, url=server.url)
    with Hub(runtime="inline").traces(sending).emitter(emitter).start() as pipeline:
        pipeline.sender().send(Event(id="a", event_type="t", source="s"))
    with (
        Hub(runtime="inline")
        .traces(reading)
        .source(RedisStreamsSource(stream, "g", url=server.url))
        .emitter(out)
        .start()
    ):
        out.wait_for(1)
    (emit,), (intake,) = sending.named("emit"), reading.named("intake")
    assert parent_of(intake) == id_of(emit)


@pytest.mark.parametrize(
    ("value", "decode"), [("protobuf", "event"), ("json", "json"), ("cloudevents", "cloudevents"), ("raw", "ingestor")]
)
def test_what_the_emitter_sends_the_source_reads(
    server: Server, stream: str, out: Recorder, value: str, decode: str
) -> None:
    sent = Event(id="a", event_type="t", source="50% ä", timestamp_unix_ns=5, payload=b'{"n": 1}')
    with Hub(runtime="inline").emitter(RedisStreamsEmitter(stream, url=server.url, value=value)).start() as pipeline:
        pipeline.sender().send(sent)
    source = RedisStreamsSource(stream, "g", url=server.url, decode=decode, headers=["id", "type"])
    hub = Hub(runtime="inline").source(source).emitter(out)
    if decode == "ingestor":
        hub.ingestor(lambda data: [Event(event_type="raw", payload=data)], source=stream)
    with hub.start():
        (got,) = out.wait_for(1)
    assert got.payload == sent.payload
    if decode == "ingestor":
        assert (got.metadata["id"], got.metadata["type"]) == ("a", "t")
        assert re.fullmatch(rf"{stream}-\d+-0", got.id)
    else:
        assert (got.id, got.event_type, got.source, got.timestamp_unix_ns) == ("a", "t", "50% ä", 5)


def test_all_fields_of_an_entry_can_be_the_payload(server: Server, client: Any, stream: str, out: Recorder) -> None:
    client.xadd(stream, {"user": "ä", "bytes": b"\xff"}, id="1700000000123-7")
    source = RedisStreamsSource(stream, "g", url=server.url, decode="fields", event_type="login")
    with Hub(runtime="inline").source(source).emitter(out).start():
        (got,) = out.wait_for(1)
    assert json.loads(got.payload) == {"user": "ä", "bytes": "\N{REPLACEMENT CHARACTER}"}
    assert (got.id, got.event_type, got.source) == (f"{stream}-1700000000123-7", "login", stream)
    assert got.timestamp_unix_ns == 1_700_000_000_123_000_000


def test_what_cannot_be_read_is_a_dead_letter_that_says_where_it_stood(
    server: Server, client: Any, stream: str, out: Recorder
) -> None:
    client.xadd(stream, {"other": "x"}, id="5-0")
    client.xadd(stream, {"data": b"\xff\xff"}, id="6-0")
    write(client, stream, 1)
    with Hub(runtime="inline").source(RedisStreamsSource(stream, "g", url=server.url)).emitter(out).start() as pipeline:
        out.wait_for(1)
        wait_for(lambda: pending(client, stream) == 0)
        reasons = sorted(letter.reason for letter in pipeline.dead_letters())
    assert reasons[0] == f"stream {stream}, entry 5-0: it has no field 'data', but other; choose data_field or decode"
    assert reasons[1].startswith(f"stream {stream}, entry 6-0: ")


def test_nothing_is_acknowledged_before_it_is_delivered_where_that_is_asked_for(
    server: Server, client: Any, stream: str, out: Recorder
) -> None:
    write(client, stream, 10)
    out.hold()
    source = RedisStreamsSource(stream, "g", url=server.url)
    with Hub(runtime="inline").source(source).ack("delivered").emitter(out).start() as pipeline:
        wait_for(lambda: "10 in flight" in pipeline.health().components["source:redis"][1])
        assert pending(client, stream) == 10
        out.release()
        wait_for(lambda: pending(client, stream) == 0)


def test_what_a_dead_consumer_had_is_claimed_and_what_is_in_flight_is_kept_from_others(
    server: Server, client: Any, stream: str, tmp_path: Path
) -> None:
    write(client, stream, 20)
    client.xgroup_create(stream, "g", "0")
    client.xreadgroup("g", "dead", {stream: ">"}, count=10)
    one, two = Recorder(tmp_path / "one", "one"), Recorder(tmp_path / "two", "two")
    one.hold()
    source = RedisStreamsSource(stream, "g", url=server.url, claim_seconds=1.0)
    with Hub(runtime="inline").source(source).ack("delivered").emitter(one).start() as first:
        wait_for(lambda: "20 in flight" in first.health().components["source:redis"][1])
        with Hub(runtime="inline").source(source).emitter(two).start() as second:
            begin = time.monotonic()
            wait_for(lambda: time.monotonic() - begin > 3.0)  # three times what others may claim after
            assert second.health().components["source:redis"][1].startswith("0 entries")
            assert second.stop(30).complete
        one.release()
        assert {event.id for event in one.wait_for(20)} == {f"e{number:05d}" for number in range(20)}
        wait_for(lambda: pending(client, stream) == 0)
        assert "10 of them claimed" in first.health().components["source:redis"][1]
    assert two.events() == []


def test_a_pipeline_that_takes_nothing_bounds_what_is_read(
    server: Server, client: Any, stream: str, out: Recorder
) -> None:
    write(client, stream, 2_000)
    client.xgroup_create(stream, "g", "0")
    out.hold()
    source = RedisStreamsSource(stream, "g", url=server.url, window=100, read_count=50)
    hub = Hub(runtime="inline").source(source).buffer_strategy(BufferStrategy.ring(20)).emitter(out)
    with hub.start():
        wait_for(lambda: pending(client, stream) >= 100)
        assert pending(client, stream) <= 200
        out.release()
        got = out.wait_for(2_000, 60)
    assert [event.id for event in got] == [f"e{number:05d}" for number in range(2_000)]


def test_a_server_that_dies_and_comes_back_loses_nothing_and_shows_in_health(tmp_path: Path, stream: str) -> None:
    out, server = Recorder(tmp_path / "out"), Server()
    try:
        with server.client() as client:
            write(client, stream, 50)
        source = RedisStreamsSource(stream, "g", url=server.url, claim_seconds=1.0, timeout=2.0)
        with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
            out.wait_for(50)
            server.kill()
            wait_for(lambda: not pipeline.health().components["source:redis"][0])
            assert f"127.0.0.1:{server.port}: " in pipeline.health().components["source:redis"][1]
            server.start()
            with server.client() as client:
                write(client, stream, 50, 50)
                wait_for(lambda: len({event.id for event in out.events()}) == 100)
                wait_for(lambda: pending(client, stream) == 0)
            wait_for(lambda: pipeline.health().components["source:redis"][0])
    finally:
        server.close()


def test_a_group_that_is_removed_with_its_stream_is_made_again(
    server: Server, client: Any, stream: str, out: Recorder
) -> None:
    write(client, stream, 1)
    with Hub(runtime="inline").source(RedisStreamsSource(stream, "g", url=server.url)).emitter(out).start():
        out.wait_for(1)
        client.delete(stream)
        write(client, stream, 1, 1)
        assert [event.id for event in out.wait_for(2)] == ["e00000", "e00001"]


def test_entries_can_be_deleted_when_they_are_in_and_a_group_can_begin_at_the_end(
    server: Server, client: Any, stream: str, out: Recorder
) -> None:
    write(client, stream, 5)
    source = RedisStreamsSource(stream, "g", url=server.url, start="end", delete=True)
    with Hub(runtime="inline").source(source).emitter(out).start():
        wait_for(lambda: client.exists(stream) and client.xinfo_groups(stream))
        write(client, stream, 3, 5)
        assert [event.id for event in out.wait_for(3)] == ["e00005", "e00006", "e00007"]
        wait_for(lambda: client.xlen(stream) == 5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_ingest_actors_of_all_lanes_pull(server: Server, client: Any, stream: str, out: Recorder) -> None:
    write(client, stream, 1_000)
    hub = (
        Hub(runtime="ray").lanes(2).source(RedisStreamsSource(stream, "g", url=server.url, read_count=10)).emitter(out)
    )
    with hub.start() as pipeline:
        got = out.wait_for(1_000, 60)
        wait_for(lambda: pending(client, stream) == 0)
        wait_for(lambda: consumers(client, stream) == 2)
        assert pipeline.stop(60).complete
    assert sorted(event.id for event in got) == [f"e{number:05d}" for number in range(1_000)]


def consumers(client: Any, stream: str) -> int:
    """Return how many consumers a group has: a lane is one once it has been given an entry."""
    write(client, stream, 1, 1_000)
    return len(client.xinfo_consumers(stream, "g"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://x"}, "url is no address of a Redis server; write redis://host:6379/0"),
        ({"stream": ""}, "must be a name or a template"),
        ({"stream": "{nothing}"}, "is no field of an event"),
        ({"value": "xml"}, "is not known; choose 'protobuf', 'json', 'raw' or 'cloudevents'"),
        ({"max_len": 0}, "must be a whole number of at least 1"),
        ({"replicas": -1}, "must be a whole number, 0 or more"),
        ({"password": 1}, "password must be a text or a polku.Secret"),
    ],
)
def test_a_wrong_argument_of_the_emitter_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        RedisStreamsEmitter(**{"stream": "s", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": []}, "must be one or several names"),
        ({"group": ""}, "must be a text, not empty"),
        ({"decode": "xml"}, "is not known; choose"),
        ({"start": "now"}, "is not known; choose 'beginning' or 'end'"),
        ({"claim_seconds": 0}, "must be a number above 0"),
        ({"read_count": 0}, "must be a whole number of at least 1"),
    ],
)
def test_a_wrong_argument_of_the_source_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        RedisStreamsSource(**{"streams": "s", "group": "g", **options})


def test_it_keeps_the_contract_of_sources_and_hides_its_secrets() -> None:
    source = RedisStreamsSource("s", "g", url="redis://:hidden@localhost", password="hidden")
    assert isinstance(source.build(SystemClock()), Source)
    assert "hidden" not in repr(source) + repr(RedisStreamsEmitter("s", url="redis://:hidden@localhost"))
    assert server_of("redis://:hidden@localhost") == "localhost:6379"
    with pytest.raises(PlanError, match="source 's', which has no ingestor"):
        Hub(runtime="inline").source(RedisStreamsSource("s", "g", decode="ingestor")).emitter(print).plan()
