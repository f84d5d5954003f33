"""NATS JetStream in both directions, against a real nats-server."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import (
    BufferStrategy,
    Event,
    Hub,
    MisconfiguredError,
    NatsEmitter,
    NatsSource,
    PlanError,
    RetryableError,
    Secret,
    Source,
)
from polku.clock import SystemClock
from polku.testing import EmitterCheck, SourceCheck, emitter_checks, source_checks
from tests.nats.destination import Nats
from tests.nats.origin import NatsOrigin
from tests.nats.server import Server, needs_nats
from tests.support.emitting import emit
from tests.support.recorder import Recorder
from tests.tracing.spans import InMemory, id_of, parent_of

pytestmark = needs_nats
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def stream(server: Server) -> str:
    name = f"S{next(NUMBERS)}"
    make(server, name)
    return name


@pytest.fixture
def out(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


def make(server: Server, name: str, **options: Any) -> None:
    server.do(lambda js: js.add_stream(name=name, subjects=[f"{name}.>"], **options))


def write(server: Server, stream: str, count: int, start: int = 0) -> None:
    async def publish(js: Any) -> None:
        for number in range(start, start + count):
            event = Event(id=f"e{number:05d}", event_type="t", source="s")
            await js.publish_async(f"{stream}.x", event.SerializeToString())
        await js.publish_async_completed()

    server.do(publish)


def unanswered(server: Server, stream: str, durable: str = "g") -> tuple[int, int]:
    """Return how many messages a consumer has not acknowledged, and how many it has not been given."""

    async def ask(js: Any) -> tuple[int, int]:
        info = await js.consumer_info(stream, durable)
        return info.num_ack_pending, info.num_pending

    return server.do(ask)


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("check", emitter_checks(Nats.abilities), ids=str)
async def test_the_emitter_keeps_the_contract(check: EmitterCheck) -> None:
    await check.run(Nats())


@pytest.mark.parametrize("check", source_checks(NatsOrigin.abilities), ids=str)
async def test_the_source_keeps_the_contract(check: SourceCheck, caplog: pytest.LogCaptureFixture) -> None:
    await check.run(NatsOrigin())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_messages_become_events_and_are_acknowledged(server: Server, stream: str, out: Recorder) -> None:
    write(server, stream, 1_200)
    with Hub(runtime="inline").source(NatsSource(stream, "g", servers=server.url)).emitter(out).start() as pipeline:
        got = out.wait_for(1_200)
        wait_for(lambda: unanswered(server, stream) == (0, 0))
        healthy, text = pipeline.health().components["source:nats"]
        assert healthy
        assert text == "1200 messages, 0 of them again, 0 in flight, lag 0"
        assert pipeline.stop(30).complete
    assert [event.id for event in got] == [f"e{number:05d}" for number in range(1_200)]
    write(server, stream, 1, 1_200)
    with Hub(runtime="inline").source(NatsSource(stream, "g", servers=server.url)).emitter(out).start():
        assert out.wait_for(1_201)[-1].id == "e01200", "the consumer goes on where it was"


def test_the_pipeline_that_reads_goes_on_with_the_trace_of_the_one_that_sent(
    server: Server, stream: str, out: Recorder
) -> None:
    sending, reading = InMemory(), InMemory()
    with (
        Hub(runtime="inline")
        .traces(sending)
        .emitter(NatsEmitter(f"{stream}.x", servers=server.url))
        .start() as pipeline
    ):
        pipeline.sender().send(Event(id="a", event_type="t", source="s"))
    source = NatsSource(stream, "g", servers=server.url)
    with Hub(runtime="inline").traces(reading).source(source).emitter(out).start():
        out.wait_for(1)
    (emit,), (intake,) = sending.named("emit"), reading.named("intake")
    assert parent_of(intake) == id_of(emit)


@pytest.mark.parametrize(
    ("value", "decode"), [("protobuf", "event"), ("json", "json"), ("cloudevents", "cloudevents"), ("raw", "ingestor")]
)
def test_what_the_emitter_sends_the_source_reads(
    server: Server, stream: str, out: Recorder, value: str, decode: str
) -> None:
    sent = Event(id="a", event_type="t", source="50% ä\n", timestamp_unix_ns=5, payload=b'{"n": 1}')
    emitter = NatsEmitter(f"{stream}.x", servers=server.url, value=value, stream=stream)
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        pipeline.sender().send(sent)
    source = NatsSource(stream, "g", servers=server.url, decode=decode, headers=["type"])
    hub = Hub(runtime="inline").source(source).emitter(out)
    if decode == "ingestor":
        hub.ingestor(lambda data: [Event(event_type="raw", payload=data)], source=stream)
    with hub.start():
        (got,) = out.wait_for(1)
    assert (got.id, got.payload) == ("a", sent.payload)
    if decode == "ingestor":
        assert got.metadata["type"] == "t"
    else:
        assert (got.event_type, got.source, got.timestamp_unix_ns) == ("t", sent.source, 5)


def test_what_is_sent_again_is_stored_once(server: Server, stream: str) -> None:
    for _ in range(2):
        events = [Event(id=f"{number}") for number in range(50)] + [Event(id="odd\r\nX: y")]
        assert emit(NatsEmitter(f"{stream}.x", servers=server.url).build(SystemClock()), *events) == []

    async def count(js: Any) -> int:
        return int((await js.stream_info(stream)).state.messages)

    assert server.do(count) == 51


def test_what_cannot_be_read_is_a_dead_letter_that_says_where_it_stood(
    server: Server, stream: str, out: Recorder
) -> None:
    server.do(lambda js: js.publish(f"{stream}.bad", b"\xff\xff"))
    write(server, stream, 1)
    with Hub(runtime="inline").source(NatsSource(stream, "g", servers=server.url)).emitter(out).start() as pipeline:
        out.wait_for(1)
        (letter,) = pipeline.dead_letters()
    assert letter.reason.startswith(f"stream {stream}, message 1 ({stream}.bad): ")
    assert letter.event.id == f"{stream}-1"


def test_what_waits_in_the_pipeline_for_long_is_not_delivered_again(server: Server, stream: str, out: Recorder) -> None:
    write(server, stream, 10)
    out.hold()
    source = NatsSource(stream, "g", servers=server.url, ack_seconds=1.0)
    with Hub(runtime="inline").source(source).ack("delivered").emitter(out).start() as pipeline:
        wait_for(lambda: "10 in flight" in pipeline.health().components["source:nats"][1])
        begin = time.monotonic()
        wait_for(lambda: time.monotonic() - begin > 3.0)  # three times what the server waits for by itself
        assert unanswered(server, stream) == (10, 0)
        out.release()
        wait_for(lambda: unanswered(server, stream) == (0, 0))
        assert "10 messages, 0 of them again" in pipeline.health().components["source:nats"][1]
    assert len(out.events()) == 10


def test_what_another_puller_took_and_did_not_acknowledge_comes_again(
    server: Server, stream: str, out: Recorder
) -> None:
    write(server, stream, 10)

    async def take(js: Any) -> int:
        from nats.js.api import ConsumerConfig

        pulls = await js.pull_subscribe("", "g", stream, ConsumerConfig(ack_wait=1.0))
        return len(await pulls.fetch(5))

    assert server.do(take) == 5
    with Hub(runtime="inline").source(NatsSource(stream, "g", servers=server.url)).emitter(out).start() as pipeline:
        assert {event.id for event in out.wait_for(10)} == {f"e{number:05d}" for number in range(10)}
        wait_for(lambda: unanswered(server, stream) == (0, 0))
        assert "5 of them again" in pipeline.health().components["source:nats"][1]


def test_a_pipeline_that_takes_nothing_bounds_what_is_pulled(server: Server, stream: str, out: Recorder) -> None:
    write(server, stream, 2_000)
    out.hold()
    source = NatsSource(stream, "g", servers=server.url, window=100, read_count=50)
    hub = Hub(runtime="inline").source(source).buffer_strategy(BufferStrategy.ring(20)).emitter(out)
    with hub.start() as pipeline:
        wait_for(lambda: "messages" in pipeline.health().components["source:nats"][1])
        wait_for(lambda: int(pipeline.health().components["source:nats"][1].split()[0]) >= 100)
        assert unanswered(server, stream)[1] >= 1_700
        out.release()
        got = out.wait_for(2_000, 60)
    assert [event.id for event in got] == [f"e{number:05d}" for number in range(2_000)]


def test_a_server_that_dies_and_comes_back_loses_nothing_and_shows_in_health(tmp_path: Path) -> None:
    out, server = Recorder(tmp_path / "out"), Server()
    try:
        make(server, "S")
        write(server, "S", 50)
        source = NatsSource("S", "g", servers=server.url, ack_seconds=2.0, timeout=5.0)
        with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
            out.wait_for(50)
            server.kill()
            wait_for(lambda: not pipeline.health().components["source:nats"][0])
            assert f"127.0.0.1:{server.port}: " in pipeline.health().components["source:nats"][1]
            server.start()
            write(server, "S", 50, 50)
            wait_for(lambda: len({event.id for event in out.events()}) == 100)
            wait_for(lambda: unanswered(server, "S") == (0, 0))
            wait_for(lambda: pipeline.health().components["source:nats"][0])
    finally:
        server.close()


def test_a_stream_that_is_not_there_is_an_alarm_until_it_is(server: Server, out: Recorder) -> None:
    with Hub(runtime="inline").source(NatsSource("LATER", "g", servers=server.url)).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:nats"][0])
        assert "stream 'LATER' is not there; make it" in pipeline.health().components["source:nats"][1]
        make(server, "LATER")
        write(server, "LATER", 1)
        out.wait_for(1)


def test_a_consumer_can_have_one_subject_and_begin_at_the_end(server: Server, stream: str, out: Recorder) -> None:
    write(server, stream, 3)
    source = NatsSource(stream, "g", servers=server.url, subject=f"{stream}.y", start="end")

    async def publish(js: Any) -> None:
        await js.publish(f"{stream}.x", Event(id="other").SerializeToString())
        await js.publish(f"{stream}.y", Event(id="mine").SerializeToString())

    with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
        wait_for(lambda: pipeline.health().components["source:nats"][0])

        def is_there() -> bool:
            try:
                return unanswered(server, stream) is not None
            except Exception:
                return False

        wait_for(is_there)
        server.do(publish)
        assert [event.id for event in out.wait_for(1)] == ["mine"]


def test_a_subject_that_no_stream_takes_holds_everything_or_only_what_chose_it(server: Server, stream: str) -> None:
    with pytest.raises(MisconfiguredError, match=r"no stream takes subject 'nobody\.x'; make one that does"):
        emit(NatsEmitter("nobody.x", servers=server.url).build(SystemClock()), Event(id="a"))
    chosen = NatsEmitter("{source}.x", servers=server.url).build(SystemClock())
    events = [Event(id="a", source="nobody"), Event(id="b", source=stream), Event(id="c", source="a b"), Event(id="d")]
    failures = emit(chosen, *events)
    assert {failure.event_id: failure.retryable for failure in failures} == {"a": False, "c": False, "d": False}


def test_an_event_that_is_too_large_fails_alone_and_a_full_stream_is_tried_again(server: Server) -> None:
    make(server, "SMALL", max_msg_size=1_000, max_msgs=2, discard="new")
    emitter = NatsEmitter("SMALL.x", servers=server.url)
    large = [Event(id="large", payload=bytes(2_000)), Event(id="huge", payload=bytes(2_000_000))]
    failures = emit(emitter.build(SystemClock()), *large, Event(id="a"), Event(id="b"), Event(id="c"))
    assert {failure.event_id: failure.retryable for failure in failures} == {"large": False, "huge": False, "c": True}
    assert "maximum messages exceeded" in next(one.reason for one in failures if one.event_id == "c")


def refused(config: NatsEmitter) -> None:
    """Emit until it is refused: the server closes the connection at once, and its word may be lost with it."""
    while True:
        try:
            emit(config.build(SystemClock()), Event(id="a"))
        except RetryableError as error:
            if "reset by peer" not in str(error):
                raise
        else:
            return


def test_credentials_that_are_refused_are_an_alarm_until_they_are_right(tmp_path: Path) -> None:
    server, secret, out = Server(user="me", password="right"), tmp_path / "secret", Recorder(tmp_path / "out")
    try:
        make(server, "S")
        secret.write_text("wrong")
        login: dict[str, Any] = {"servers": server.url, "user": "me", "password": Secret(f"file:{secret}")}
        with pytest.raises(MisconfiguredError, match=r"(?i)authorization violation"):
            refused(NatsEmitter("S.x", **login))
        with Hub(runtime="inline").source(NatsSource("S", "g", **login)).emitter(out).start() as pipeline:
            wait_for(lambda: not pipeline.health().components["source:nats"][0])
            secret.write_text("right")
            emit(NatsEmitter("S.x", **login).build(SystemClock()), Event(id="a"))
            assert [event.id for event in out.wait_for(1)] == ["a"]
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_ingest_actors_of_all_lanes_pull(server: Server, stream: str, out: Recorder) -> None:
    write(server, stream, 1_000)
    hub = Hub(runtime="ray").lanes(2).source(NatsSource(stream, "g", servers=server.url, read_count=10)).emitter(out)
    with hub.start() as pipeline:
        got = out.wait_for(1_000, 60)
        wait_for(lambda: unanswered(server, stream) == (0, 0))
        assert pipeline.stop(30).complete
    assert sorted(event.id for event in got) == [f"e{number:05d}" for number in range(1_000)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"servers": "http://x"}, "servers: write nats://host:4222"),
        ({"subject": "a b"}, "must be words with dots between them"),
        ({"subject": "a.>"}, "must be words with dots between them"),
        ({"subject": "{nothing}"}, "is no field of an event"),
        ({"value": "xml"}, "is not known; choose 'protobuf', 'json', 'raw' or 'cloudevents'"),
        ({"headers": ["a: b"]}, "must be a list of metadata keys"),
        ({"password": 1}, "password must be a text or a polku.Secret"),
        ({"timeout": 0}, "must be a number above 0"),
    ],
)
def test_a_wrong_argument_of_the_emitter_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        NatsEmitter(**{"subject": "s", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "a.b"}, "must be a name without dots"),
        ({"durable": ""}, "must be a name without dots"),
        ({"decode": "xml"}, "is not known; choose"),
        ({"start": "now"}, "is not known; choose 'beginning' or 'end'"),
        ({"ack_seconds": 0}, "must be a number above 0"),
    ],
)
def test_a_wrong_argument_of_the_source_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        NatsSource(**{"stream": "s", "durable": "g", **options})


def test_it_keeps_the_contract_of_sources_and_hides_its_secrets() -> None:
    source = NatsSource("s", "g", servers="nats://me:hidden@localhost", token="hidden")
    assert isinstance(source.build(SystemClock()), Source)
    assert "hidden" not in repr(source) + repr(NatsEmitter("s", servers="nats://me:hidden@localhost"))
    with pytest.raises(PlanError, match="source 's', which has no ingestor"):
        Hub(runtime="inline").source(NatsSource("s", "g", decode="ingestor")).emitter(print).plan()
