"""The KafkaEmitter, against brokers that speak the protocol over real ports (`tests.kafka.broker`)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polku import (
    Batch,
    Event,
    Hub,
    KafkaEmitter,
    MisconfiguredError,
    Resilience,
    Retry,
    Severity,
    new_event,
)
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.ingest import CloudEventsIngestor, JsonIngestor
from tests.kafka.broker import (
    INVALID_RECORD,
    MSG_SIZE_TOO_LARGE,
    NONE,
    OUT_OF_ORDER,
    PRODUCE,
    TOPIC_AUTHORIZATION,
    UNKNOWN_TOPIC,
    Cluster,
)
from tests.kafka.clients import read
from tests.support.pace import pace

QUICK = {"topic.metadata.propagation.max.ms": 300, "reconnect.backoff.max.ms": 200}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(*(f"{name}:3" for name in ("orders", "keyed", "large", "again", "halves"))) as cluster:
        yield cluster


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """Serve one test alone, which takes it down."""
    with Cluster("orders:2") as cluster:
        yield cluster


@asynccontextmanager
async def running(cluster: Cluster, topic: Any, **options: Any) -> AsyncIterator[Any]:
    options["config"] = {**QUICK, **options.get("config", {})}
    emitter = KafkaEmitter(topic, bootstrap_servers=cluster.bootstrap, **options).build(SystemClock())
    await emitter.start()
    try:
        yield emitter
    finally:
        await emitter.close()
        await emitter.close()


def batch(*ids: str, **fields: Any) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", source="s", **fields) for event_id in ids])


def ids(messages: list[Any]) -> list[str]:
    return [dict(message.headers())["id"].decode() for message in messages]


async def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


async def test_events_are_confirmed_records_with_headers(cluster: Cluster) -> None:
    event = Event(id="a", event_type="t", source="s", payload=b"\x00", metadata={"traceparent": "00-1", "other": "x"})
    async with running(cluster, "plain") as emitter:
        assert await emitter.emit(Batch.from_events([event])) == []
        assert emitter.statistics()[:4] == (1, 1, 0, 0)
    (message,) = await asyncio.to_thread(read, cluster.bootstrap, "plain", 1, 4)
    assert Event.FromString(message.value()) == event
    headers = {name: value.decode() for name, value in message.headers()}
    content_type = {"content-type": "application/x-protobuf"}
    assert headers == {"id": "a", "type": "t", "source": "s", "traceparent": "00-1", **content_type}


async def test_topic_and_key_come_from_the_event(cluster: Cluster) -> None:
    async with running(cluster, "events.{source}", key="{metadata[user]}") as emitter:
        assert await emitter.emit(batch("a", metadata={"user": "ada"})) == []
    (message,) = await asyncio.to_thread(read, cluster.bootstrap, "events.s", 1, 4)
    assert message.key() == b"ada"
    async with running(cluster, lambda event: f"by-{event.event_type}", key=lambda event: event.id.encode()) as emitter:
        assert await emitter.emit(batch("b")) == []
    (message,) = await asyncio.to_thread(read, cluster.bootstrap, "by-t", 1, 4)
    assert message.key() == b"b"


async def test_a_key_keeps_its_events_in_order(cluster: Cluster) -> None:
    async with running(cluster, "keyed", key="{source}") as emitter:
        for start in range(0, 3_000, 1_000):
            events = [Event(id=str(n), source=f"s{n % 7}") for n in range(start, start + 1_000)]
            assert await emitter.emit(Batch.from_events(events)) == []
    messages = await asyncio.to_thread(read, cluster.bootstrap, "keyed", 3_000, 3)
    for key in {message.key() for message in messages}:
        numbers = [int(i) for i in ids([message for message in messages if message.key() == key])]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("value", ["json", "raw", "cloudevents", "cloudevents-binary"])
async def test_values_have_the_form_that_is_asked_for(cluster: Cluster, value: str) -> None:
    event = Event(id="a", event_type="t", source="ä b", timestamp_unix_ns=5, payload=b'{"n": 1.0}')
    event.severity = Severity.SEVERITY_WARNING
    async with running(cluster, f"form-{value}", value=value) as emitter:
        assert await emitter.emit(Batch.from_events([event])) == []
    (message,) = await asyncio.to_thread(read, cluster.bootstrap, f"form-{value}", 1, 4)
    headers = {name: text.decode() for name, text in message.headers()}
    if value == "json":
        assert list(JsonIngestor().ingest(message.value(), IngestContext("json"))) == [event]
    elif value == "raw":
        assert message.value() == event.payload
    elif value == "cloudevents":
        assert headers == {"content-type": "application/cloudevents+json; charset=UTF-8"}
        assert list(CloudEventsIngestor().ingest(message.value(), IngestContext("json"))) == [event]
    else:
        assert message.value() == event.payload
        assert headers == {
            "ce_specversion": "1.0",
            "ce_id": "a",
            "ce_source": "%C3%A4%20b",
            "ce_type": "t",
            "ce_time": "1970-01-01T00:00:00.000000005Z",
            "ce_severity": "warning",
            "content-type": "application/json",
        }


async def test_typed_data_is_json_where_there_is_no_payload(cluster: Cluster) -> None:
    event = Event(id="a", event_type="t", source="s")
    event.network.src_ip = "10.0.0.1"
    async with running(cluster, "typed", value="cloudevents-binary") as emitter:
        assert await emitter.emit(Batch.from_events([event])) == []
    (message,) = await asyncio.to_thread(read, cluster.bootstrap, "typed", 1, 4)
    assert json.loads(message.value())["src_ip"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("options", "metadata", "reason"),
    [
        ({"topic": "{metadata[tenant]}"}, {}, "topic: the event has no metadata[tenant]"),
        ({"topic": "t", "key": "{metadata[tenant]}"}, {}, "key: the event has no metadata[tenant]"),
        ({"topic": "{metadata[tenant]}"}, {"tenant": "a b"}, "topic='a b': a topic's name has"),
        ({"topic": "{metadata[tenant]}"}, {"tenant": "a\n"}, "topic='a\\n': a topic's name has"),
        ({"topic": "{metadata[tenant]}"}, {"tenant": "a\0"}, "topic='a\\x00': a topic's name has"),
        ({"topic": "{metadata[tenant]}"}, {"tenant": ".."}, "topic='..': a topic's name has"),
        ({"topic": "{metadata[tenant]}"}, {"tenant": "a" * 250}, "a topic's name has 1 to 249"),
        ({"topic": lambda event: None}, {}, "topic=None: a topic's name has"),
        ({"topic": lambda event: 1 / 0}, {}, "topic: the function raised ZeroDivisionError"),
        ({"topic": "t", "key": lambda event: 5}, {}, "key=5: the function must return text"),
    ],
)
async def test_an_event_that_cannot_become_a_record_is_a_dead_letter(
    cluster: Cluster, options: dict[str, Any], metadata: dict[str, str], reason: str
) -> None:
    async with running(cluster, **options) as emitter:
        (failure,) = await emitter.emit(batch("a", metadata=metadata))
    assert (failure.event_id, failure.retryable) == ("a", False)
    assert reason in failure.reason


async def test_a_key_of_ten_thousand_bytes_is_fine(cluster: Cluster) -> None:
    async with running(cluster, "long-keys", key="{metadata[key]}") as emitter:
        assert await emitter.emit(batch("a", metadata={"key": "k" * 10_240})) == []
    (message,) = await asyncio.to_thread(read, cluster.bootstrap, "long-keys", 1, 4)
    assert len(message.key()) == 10_240


async def test_what_is_over_the_clients_limit_is_a_dead_letter_and_the_rest_goes_on(cluster: Cluster) -> None:
    events = [Event(id="a"), Event(id="large", payload=bytes(2_000_000)), Event(id="b")]
    async with running(cluster, "large") as emitter:
        (failure,) = await emitter.emit(Batch.from_events(events))
    assert (failure.event_id, failure.retryable) == ("large", False)
    assert "MSG_SIZE_TOO_LARGE" in failure.reason
    assert "2000" in failure.reason
    assert sorted(ids(await asyncio.to_thread(read, cluster.bootstrap, "large", 2, 3))) == ["a", "b"]


TOGETHER = {"linger.ms": 200}
"""Records of one batch go in one request, however busy the machine is."""


async def test_a_refused_size_concerns_only_the_event_that_is_too_large_alone(cluster: Cluster) -> None:
    cluster.tell("errors", PRODUCE, MSG_SIZE_TOO_LARGE)
    async with running(cluster, "again", key="{source}", config=TOGETHER) as emitter:
        assert await emitter.emit(batch("a", "b", "c")) == []
        cluster.tell("errors", PRODUCE, MSG_SIZE_TOO_LARGE)
        (failure,) = await emitter.emit(batch("d"))
    assert (failure.event_id, failure.retryable) == ("d", False)
    assert ids(await asyncio.to_thread(read, cluster.bootstrap, "again", 3, 3)) == ["a", "b", "c"]


async def test_what_is_refused_for_the_sake_of_another_is_sent_in_halves(cluster: Cluster) -> None:
    # As a whole, and then the second half, and of that the first one.
    cluster.tell("errors", PRODUCE, INVALID_RECORD, NONE, INVALID_RECORD, INVALID_RECORD)
    async with running(cluster, "halves", key="{source}", config=TOGETHER) as emitter:
        (failure,) = await emitter.emit(batch("a", "b", "c", "d"))
    assert (failure.event_id, failure.retryable) == ("c", False)
    assert "INVALID_RECORD" in failure.reason
    assert ids(await asyncio.to_thread(read, cluster.bootstrap, "halves", 3, 3)) == ["a", "b", "d"]


async def test_a_client_that_cannot_go_on_says_why_and_another_takes_its_place(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(cluster, "fatal", config=TOGETHER) as emitter:
        assert await emitter.emit(batch("first")) == []
        cluster.tell("errors", PRODUCE, OUT_OF_ORDER)
        failures = await emitter.emit(batch("a", "b"))
        assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", True), ("b", True)]
        assert all("OUT_OF_ORDER_SEQUENCE_NUMBER" in failure.reason for failure in failures)
        assert await emitter.emit(batch("a", "b")) == []
    assert "another one takes its place" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_topic_that_you_named_and_that_is_not_there_holds_everything(cluster: Cluster) -> None:
    cluster.tell("topic-error", "missing", UNKNOWN_TOPIC)
    async with running(cluster, "missing") as emitter:
        with pytest.raises(MisconfiguredError, match=r"topic missing: .*UNKNOWN_TOPIC"):
            await emitter.emit(batch("a", "b"))


async def test_a_topic_that_the_event_named_and_that_is_not_there_is_the_events_fault(cluster: Cluster) -> None:
    cluster.tell("topic-error", "nowhere", UNKNOWN_TOPIC)
    async with running(cluster, "{source}") as emitter:
        events = Batch.from_events([Event(id="a", source="nowhere"), Event(id="b", source="orders")])
        (failure,) = await emitter.emit(events)
        assert (failure.event_id, failure.retryable) == ("a", False)
        assert "topic nowhere" in failure.reason
        took = []
        for _ in range(5):
            began = time.monotonic()
            (failure,) = await emitter.emit(events)
            took.append(time.monotonic() - began)
            assert "create it, or let the event name another" in failure.reason
        assert min(took) < 0.2, "the brokers are not asked again at once"


async def test_what_is_not_allowed_holds_everything_until_it_is(cluster: Cluster) -> None:
    cluster.tell("errors", PRODUCE, TOPIC_AUTHORIZATION)
    async with running(cluster, "orders", key="{source}") as emitter:
        with pytest.raises(MisconfiguredError, match="TOPIC_AUTHORIZATION_FAILED"):
            await emitter.emit(batch("a", "b"))
        assert await emitter.emit(batch("a", "b")) == []


async def test_credentials_that_are_not_taken_hold_everything(cluster: Cluster) -> None:
    sasl = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "u"}
    async with running(cluster, "orders", config={**sasl, "sasl.password": "wrong"}) as emitter:
        with pytest.raises(MisconfiguredError) as caught:
            await emitter.emit(batch("a"))
        assert "wrong" not in str(caught.value)
        assert emitter.statistics().alarm


async def test_a_small_queue_is_waited_for(cluster: Cluster) -> None:
    async with running(cluster, "small-queue", config={"queue.buffering.max.messages": 10}) as emitter:
        used = time.process_time()
        cluster.tell("rtt", 20)
        try:
            assert await emitter.emit(batch(*map(str, range(200)))) == []
        finally:
            cluster.tell("rtt", 0)
        assert emitter.statistics().queued == 0
        assert time.process_time() - used < 0.5 * pace(), "waiting must cost nothing"
    assert len(await asyncio.to_thread(read, cluster.bootstrap, "small-queue", 200, 4)) == 200


async def test_what_is_not_confirmed_in_time_is_taken_back_and_keeps_its_order(own_cluster: Cluster) -> None:
    async with running(own_cluster, "orders", key="{source}", timeout=3) as emitter:
        assert await emitter.emit(batch("a", "b")) == []
        own_cluster.tell("down", 1)
        failures = await emitter.emit(batch("c", "d"))
        assert [(failure.event_id, failure.retryable) for failure in failures] == [("c", True), ("d", True)]
        assert "no broker can be reached" in failures[0].reason
        own_cluster.tell("up", 1)
        await until(lambda: not emitter.statistics().alarm)
        while failures := await emitter.emit(batch("c", "d")):
            assert all(failure.retryable for failure in failures)
    assert ids(await asyncio.to_thread(read, own_cluster.bootstrap, "orders", 4, 2)) == ["a", "b", "c", "d"]


async def test_closing_lets_go_of_an_emit_that_waits(own_cluster: Cluster) -> None:
    own_cluster.tell("down", 1)
    async with running(own_cluster, "orders", timeout=60) as emitter:
        waiting = asyncio.ensure_future(emitter.emit(batch("a")))
        await asyncio.sleep(0)  # the client counts news of the broken connection as queued, too
        await until(lambda: emitter.statistics().queued == 1)
    (failure,) = await asyncio.wait_for(waiting, 30)
    assert failure.retryable


def pipeline_events(count: int, start: int = 0) -> list[Event]:
    return [new_event("t", source="s", id=f"e{number:05d}") for number in range(start, start + count)]


def test_a_broker_that_is_down_at_the_start_and_dies_later_loses_nothing(own_cluster: Cluster) -> None:
    own_cluster.tell("down", 1)
    emitter = KafkaEmitter("orders", key="{source}", bootstrap_servers=own_cluster.bootstrap, timeout=1.0, config=QUICK)
    hub = Hub(runtime="inline").emitter(Resilience(emitter, retry=Retry(limit=0.2)))
    with hub.start() as pipeline:
        sender = pipeline.sender()
        sender.send(pipeline_events(500))
        wait_for(lambda: not pipeline.health().components["emitter:kafka"][0])
        assert "no broker can be reached" in pipeline.health().components["emitter:kafka"][1]
        own_cluster.tell("up", 1)
        read(own_cluster.bootstrap, "orders", 500, 2)
        sender.send(pipeline_events(500, 500))
        own_cluster.tell("down", 1)
        sender.send(pipeline_events(500, 1_000))
        time.sleep(1.5)
        own_cluster.tell("up", 1)
        read(own_cluster.bootstrap, "orders", 1_500, 2, timeout=40)
        wait_for(lambda: pipeline.health().components["emitter:kafka"][0])
        report = pipeline.stop(20)
    assert report.emitters["kafka"][:4] == (1_500, 0, 0, 0)
    seen: list[str] = []
    for event_id in ids(read(own_cluster.bootstrap, "orders", 1_500, 2)):
        if event_id not in seen:
            seen.append(event_id)
    assert seen == [event.id for event in pipeline_events(1_500)]


def test_a_drain_waits_for_the_reports(cluster: Cluster) -> None:
    emitter = KafkaEmitter("drained", bootstrap_servers=cluster.bootstrap, config={"linger.ms": 200})
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        pipeline.sender().send(pipeline_events(300))
        report = pipeline.stop(20)
    assert report.complete
    assert report.emitters["kafka"].delivered == 300
    assert len(read(cluster.bootstrap, "drained", 300, 4)) == 300


def wait_for(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
