"""The KafkaSource, against brokers that speak the protocol over real ports (`tests.kafka.broker`)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from polku import (
    BufferStrategy,
    Event,
    Hub,
    KafkaEmitter,
    KafkaSource,
    Limits,
    PlanError,
    RecordError,
    Severity,
    Source,
    Transform,
)
from polku.aio import loop_thread
from polku.cli.graph import mermaid, outline
from polku.clock import SystemClock
from polku.kafka import client
from polku.kafka.client import open_client
from polku.kafka.consumer import Consumer
from polku.kafka.reading import Reader
from polku.log import RepeatedLog
from tests.kafka.broker import OFFSET_COMMIT, TOPIC_AUTHORIZATION, UNKNOWN_TOPIC, Cluster
from tests.kafka.clients import committed, read, wait_for, write
from tests.support.recorder import Recorder

QUICK = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 200, "reconnect.backoff.max.ms": 200}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def topic(cluster: Cluster) -> str:
    """Make a topic of three partitions for one test."""
    name = f"in-{next(NUMBERS)}"
    cluster.tell("topic", name, 3)
    return name


@pytest.fixture
def out(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


def source(at: Cluster, topic: str, **options: Any) -> KafkaSource:
    options = {"config": QUICK, "decode": "event", **options}
    return KafkaSource(topic, f"group-{topic}", bootstrap_servers=at.bootstrap, **options)


def events(count: int, start: int = 0, source: str = "s") -> list[bytes]:
    made = [Event(id=f"e{n:05d}", event_type="t", source=source) for n in range(start, start + count)]
    return [event.SerializeToString() for event in made]


def parse(data: bytes) -> list[Event | RecordError]:
    if data == b"bad":
        return [RecordError("this is bad")]
    if data == b"raise":
        raise ValueError("boom")
    return [Event(event_type="line", payload=part) for part in data.split(b",")]


def test_records_become_events_and_are_committed_without_a_gateway(cluster: Cluster, topic: str, out: Recorder) -> None:
    for partition in range(3):
        write(cluster.bootstrap, topic, events(100, 100 * partition), partition=partition)
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(out).start() as pipeline:
        got = out.wait_for(300)
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3) == [100, 100, 100])
        healthy, text = pipeline.health().components["source:kafka"]
        assert healthy
        assert "3 partitions, 300 records" in text
    for partition in range(3):
        mine = [event.id for event in got if int(event.id[1:]) // 100 == partition]
        assert mine == [f"e{n:05d}" for n in range(100 * partition, 100 * partition + 100)]


def test_a_drain_commits_what_it_took_and_a_restart_goes_on_there(cluster: Cluster, topic: str, out: Recorder) -> None:
    hub = Hub(runtime="inline").source(source(cluster, topic, commit_seconds=60.0)).emitter(out)
    write(cluster.bootstrap, topic, events(50), partition=0)
    with hub.start() as pipeline:
        out.wait_for(50)
        assert pipeline.stop(20).complete
    assert committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 50
    write(cluster.bootstrap, topic, events(50, 50), partition=0)
    with hub.start():
        got = out.wait_for(100)
    assert [event.id for event in got] == [f"e{n:05d}" for n in range(100)]


def test_bytes_go_to_the_ingestor_of_the_source_and_get_ids_by_their_place(
    cluster: Cluster, topic: str, out: Recorder
) -> None:
    write(cluster.bootstrap, topic, [b"a,b", b"c"], partition=1, headers={"traceparent": "00-1"}, timestamp=5)
    pulled = source(cluster, topic, decode="ingestor", source="lines", cluster="eu")
    with Hub(runtime="inline").ingestor(parse, source="lines").source(pulled).emitter(out).start():
        a, b, c = out.wait_for(3)
    assert [a.id, b.id, c.id] == [f"{topic}-1-0", f"{topic}-1-0-1", f"{topic}-1-1"]
    assert (a.source, a.timestamp_unix_ns, a.payload) == ("lines", 5_000_000, b"a")
    assert a.metadata == {"cluster": "eu", "traceparent": "00-1"}


def test_what_cannot_be_read_is_a_dead_letter_that_says_where_it_stood(
    cluster: Cluster, topic: str, out: Recorder
) -> None:
    write(cluster.bootstrap, topic, [b"a", b"bad", b"raise", b"b", None], partition=2)
    pulled = source(cluster, topic, decode="ingestor")
    with Hub(runtime="inline").ingestor(parse, source=topic).source(pulled).emitter(out).start() as pipeline:
        assert [event.payload for event in out.wait_for(3)] == [b"a", b"b", b""]
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[2] == 5)
        bad, raised = pipeline.dead_letters()
    assert (bad.event.payload, bad.code) == (b"bad", "INVALID_RECORD")
    assert bad.reason == f"topic {topic}, partition 2, offset 1: this is bad"
    assert bad.event.id == f"{topic}-2-1"
    assert (raised.code, raised.event.payload) == ("INGESTOR_ERROR", b"raise")
    assert f"topic {topic}, partition 2, offset 2: " in raised.reason


def test_an_event_over_a_limit_is_a_dead_letter_and_the_same_id_twice_is_not(
    cluster: Cluster, topic: str, out: Recorder
) -> None:
    wide = Event(id="wide", source="s", metadata={"k" * 300: "v"}).SerializeToString()
    huge = Event(id="huge", source="s", payload=bytes(900_000)).SerializeToString()
    write(cluster.bootstrap, topic, [*events(1), *events(1), wide, b"\xff", huge, *events(1, 1)], partition=0)
    hub = Hub(runtime="inline").source(source(cluster, topic)).limits(Limits(message_bytes=500_000)).emitter(out)
    with hub.start() as pipeline:
        assert [event.id for event in out.wait_for(3)] == ["e00000", "e00000", "e00001"]
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 6)
        letters = {letter.event.id: letter for letter in pipeline.dead_letters()}
    assert set(letters) == {"wide", f"{topic}-0-3", "huge"}
    assert [letters[i].code for i in ("wide", f"{topic}-0-3", "huge")] == ["METADATA_LIMIT", "MALFORMED", "TOO_LARGE"]
    assert "partition 0, offset 2" in letters["wide"].reason


@pytest.mark.parametrize("value", ["protobuf", "json", "cloudevents", "cloudevents-binary"])
def test_what_the_emitter_sends_the_source_reads(cluster: Cluster, topic: str, out: Recorder, value: str) -> None:
    sent = Event(id="a", event_type="t", source="50% ä", timestamp_unix_ns=5, payload=b'{"n": 1}')
    sent.severity = Severity.SEVERITY_WARNING
    emitter = KafkaEmitter(topic, bootstrap_servers=cluster.bootstrap, value=value)
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        pipeline.sender().send(sent)
    decode = {"protobuf": "event", "json": "json"}.get(value, "cloudevents")
    with Hub(runtime="inline").source(source(cluster, topic, decode=decode)).emitter(out).start():
        assert out.wait_for(1) == [sent]


def test_keys_are_kept_from_topic_to_topic(cluster: Cluster, topic: str, out: Recorder) -> None:
    keys = [b"order-7", b"\xff\x00", None, b""]
    for event, key in zip(events(4), keys, strict=True):
        write(cluster.bootstrap, topic, [event], partition=0, key=key)
    other = f"{topic}-out"
    cluster.tell("topic", other, 1)
    emitter = KafkaEmitter(other, bootstrap_servers=cluster.bootstrap)
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(emitter).emitter(out).start():
        got = out.wait_for(4)
        records = read(cluster.bootstrap, other, 4)
    assert [dict(event.metadata) for event in got] == [
        {"kafka.key": "order-7"},
        {"kafka.key.base64": "/wA="},
        {},
        {"kafka.key": ""},
    ]
    assert [record.key() for record in records] == keys


def test_the_key_of_a_record_wins_over_one_that_its_event_has_from_before(
    cluster: Cluster, topic: str, out: Recorder
) -> None:
    event = Event(id="a", event_type="t", source="s", metadata={"kafka.key.base64": "/wA=", "tenant": "x"})
    write(cluster.bootstrap, topic, [event.SerializeToString()], partition=0, key=b"new")
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(out).start():
        (got,) = out.wait_for(1)
    assert dict(got.metadata) == {"kafka.key": "new", "tenant": "x"}


def test_a_partition_whose_work_ends_is_an_alarm_and_begins_again(
    cluster: Cluster, topic: str, out: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_record = Reader.read
    failing = True

    def cancelled(self: Reader, message: Any) -> Any:
        if failing:
            raise asyncio.CancelledError
        return read_record(self, message)

    monkeypatch.setattr(Reader, "read", cancelled)
    write(cluster.bootstrap, topic, events(3), partition=1)
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:kafka"][0])
        assert f"the work on partition 1 of topic {topic} was cancelled" in str(pipeline.health().components)
        failing = False
        assert [event.id for event in out.wait_for(3)] == ["e00000", "e00001", "e00002"]


def test_brokers_that_cannot_be_reached_write_one_line_for_each_component(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "LOG", RepeatedLog(logging.getLogger("polku.kafka")))
    quick = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 20}
    pulled = KafkaSource("t", "g", bootstrap_servers="127.0.0.1:1", decode="event", config=quick)
    emitter = KafkaEmitter("t", bootstrap_servers="127.0.0.1:1", config=quick, name="out")
    with Hub(runtime="inline").source(pulled).emitter(emitter).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:kafka"][0])
        time.sleep(1.5)  # some sixty tries to connect
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "polku.kafka"]
    assert len(lines) == 2, caplog.messages
    assert "Connection refused" in caplog.text


def test_nothing_is_committed_before_it_is_delivered_where_that_is_asked_for(
    cluster: Cluster, topic: str, out: Recorder
) -> None:
    write(cluster.bootstrap, topic, events(10), partition=0)
    out.hold()
    pulled = source(cluster, topic, commit_seconds=0.05)
    with Hub(runtime="inline").source(pulled).ack("delivered").emitter(out).start() as pipeline:
        wait_for(lambda: "10 records" in pipeline.health().components["source:kafka"][1])
        time.sleep(0.5)
        assert committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] < 0
        out.release()
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 10)


def test_a_pipeline_that_takes_nothing_bounds_what_is_pulled(cluster: Cluster, topic: str, out: Recorder) -> None:
    values = [Event(id=f"e{n:05d}", source="s", payload=bytes(500)).SerializeToString() for n in range(3_000)]
    for partition in range(3):
        write(cluster.bootstrap, topic, values[partition::3], partition=partition)
    out.hold()
    pulled = source(cluster, topic, window=300, config={**QUICK, "queued.max.messages.kbytes": 512})
    hub = Hub(runtime="inline").source(pulled).buffer_strategy(BufferStrategy.ring(100)).emitter(out)
    with hub.start() as pipeline:

        def under_way() -> int:
            found = re.search(r"(\d+) in flight", pipeline.health().components["source:kafka"][1])
            return int(found[1]) if found else 0

        wait_for(lambda: under_way() > 300)
        time.sleep(0.5)
        assert under_way() <= 3 * (101 + 31)
        out.release()
        got = out.wait_for(3_000, 60)
    for partition in range(3):
        mine = [event.id for event in got if int(event.id[1:]) % 3 == partition]
        assert mine == sorted(mine)
    assert len(got) == len({event.id for event in got})


def test_what_a_full_buffer_refuses_is_tried_again_until_it_is_in(cluster: Cluster, topic: str, out: Recorder) -> None:
    write(cluster.bootstrap, topic, events(1_000), partition=0)
    out.hold()
    buffer = BufferStrategy.ring(50, overflow="drop_newest")

    def mark(event: Event) -> None:
        assert "seen" not in event.metadata, "it comes as it was pulled, each time"
        event.metadata["seen"] = "1"

    hub = Hub(runtime="inline").source(source(cluster, topic)).middleware(Transform(mark))
    with hub.buffer_strategy(buffer).emitter(out).start() as pipeline:
        time.sleep(1.0)
        out.release()
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 1_000)
        assert pipeline.stop(20).complete
        assert not pipeline.dead_letters()
    assert {event.id for event in out.events()} == {f"e{n:05d}" for n in range(1_000)}


def test_a_partition_whose_records_are_not_taken_is_paused_alone(
    cluster: Cluster, topic: str, out: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    paused: list[int] = []
    pause = Consumer.pause

    def noted(self: Consumer, place: tuple[str, int]) -> None:
        paused.append(place[1])
        pause(self, place)

    async def held(data: bytes) -> list[Event]:
        if data == b"slow":
            await released.wait()
        return [Event(event_type="line", payload=data)]

    async def release() -> None:
        released.set()

    monkeypatch.setattr(Consumer, "pause", noted)
    write(cluster.bootstrap, topic, [b"slow"] * 2_000, partition=0)
    pulled = source(cluster, topic, decode="ingestor", window=300)
    with Hub(runtime="inline").default_ingestor(held).source(pulled).emitter(out).start() as pipeline:
        wait_for(lambda: paused == [0])
        write(cluster.bootstrap, topic, [b"fast"] * 2_000, partition=1)
        assert {event.payload for event in out.wait_for(2_000)} == {b"fast"}

        def pulled_of_the_slow() -> int:
            text = pipeline.health().components["source:kafka"][1]
            return int(re.findall(r"(\d+) in flight", text)[0])

        wait_for(lambda: 100 < pulled_of_the_slow() < 300)  # no more than there is room for
        loop_thread.submit(release()).result(30)
        out.wait_for(4_000)
        assert pipeline.stop(30).complete


def test_brokers_that_are_down_at_the_start_and_die_later_show_in_health(tmp_path: Path) -> None:
    out = Recorder(tmp_path / "out")
    with Cluster("in:1") as cluster:
        write(cluster.bootstrap, "in", events(10))
        cluster.tell("down", 1)
        with Hub(runtime="inline").source(source(cluster, "in")).emitter(out).start() as pipeline:

            def alarm() -> str:
                healthy, text = pipeline.health().components["source:kafka"]
                return "" if healthy else text

            wait_for(alarm)
            assert "no broker can be reached" in alarm()
            cluster.tell("up", 1)
            out.wait_for(10)
            wait_for(lambda: not alarm())
            cluster.tell("down", 1)
            wait_for(alarm)
            cluster.tell("up", 1)
            wait_for(lambda: not alarm())
            write(cluster.bootstrap, "in", events(10, 10))
            got = out.wait_for(20)
            assert pipeline.stop(20).complete
    assert list(dict.fromkeys(event.id for event in got)) == [f"e{n:05d}" for n in range(20)]


@pytest.mark.parametrize(
    ("code", "name"), [(UNKNOWN_TOPIC, "UNKNOWN_TOPIC_OR_PART"), (TOPIC_AUTHORIZATION, "TOPIC_AUTHORIZATION_FAILED")]
)
def test_a_topic_that_is_not_there_or_not_for_us_shows_in_health(
    cluster: Cluster, topic: str, out: Recorder, code: int, name: str
) -> None:
    cluster.tell("topic-error", topic, code)
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:kafka"][0])
        assert name in pipeline.health().components["source:kafka"][1]


def test_a_commit_that_fails_is_made_again(cluster: Cluster, topic: str, out: Recorder) -> None:
    write(cluster.bootstrap, topic, events(10), partition=0)
    cluster.tell("errors", OFFSET_COMMIT, TOPIC_AUTHORIZATION)
    with Hub(runtime="inline").source(source(cluster, topic, commit_seconds=0.1)).emitter(out).start():
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 10)


def test_a_second_member_takes_partitions_over_and_nothing_is_lost(
    cluster: Cluster, topic: str, tmp_path: Path
) -> None:
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two")
    first = Hub(runtime="inline").source(source(cluster, topic)).emitter(one).start()
    for partition in range(3):
        write(cluster.bootstrap, topic, events(200, 200 * partition), partition=partition)
    one.wait_for(600)
    wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3) == [200, 200, 200])
    second = Hub(runtime="inline").source(source(cluster, topic)).emitter(two).start()
    wait_for(lambda: "0 partitions" not in second.health().components["source:kafka"][1])
    for partition in range(3):
        write(cluster.bootstrap, topic, events(200, 1_000 + 200 * partition), partition=partition)
    wait_for(lambda: len(one.events()) + len(two.events()) >= 1_200)
    assert two.events(), "the second member got a share"
    wait_for(
        lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3) == [400, 400, 400]
    )  # by both, and settled
    assert first.stop(60).complete
    for partition in range(3):
        write(cluster.bootstrap, topic, events(200, 2_000 + 200 * partition), partition=partition)
    ids = [*(e.id for e in one.events()), *(e.id for e in two.events())]
    assert len(ids) == len(set(ids)) == 1_200, "a rebalance among the living repeats nothing"
    wait_for(lambda: len(one.events()) + len(two.events()) >= 1_800)
    assert second.stop(60).complete
    for recorder in (one, two):
        for partition in range(3):
            mine = [e.id for e in recorder.events() if int(e.id[1:]) % 1_000 // 200 == partition]
            first_time = list(dict.fromkeys(mine))
            assert first_time == sorted(first_time)
    ids = [e.id for recorder in (one, two) for e in recorder.events()]
    assert len(set(ids)) == 1_800


def test_a_killed_process_repeats_and_loses_nothing(cluster: Cluster, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    out = Recorder(file)
    write(cluster.bootstrap, topic, events(2_000), partition=0)

    def begin(commit_seconds: float) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "tests.kafka.source_program", cluster.bootstrap, topic, f"group-{topic}"]
        return subprocess.Popen([*program, str(file), str(commit_seconds)], stdout=subprocess.PIPE, text=True)

    victim = begin(3_600)  # it is answered, and never gets to commit
    try:
        out.wait_for(2_000)
    finally:
        victim.kill()
        victim.communicate()
    assert committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] < 0
    write(cluster.bootstrap, topic, events(500, 2_000), partition=0)
    heir = begin(0.1)
    try:
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 2_500, 60)
        wait_for(lambda: len({event.id for event in out.events()}) == 2_500)  # and some twice, out of its journal
    finally:
        heir.terminate()
        heir.communicate()
    got = out.events()
    assert len(got) >= 4_500
    assert list(dict.fromkeys(event.id for event in got)) == [f"e{n:05d}" for n in range(2_500)]


@pytest.mark.usefixtures("ray_session")
def test_the_ingest_actor_pulls_too(cluster: Cluster, topic: str, out: Recorder) -> None:
    write(cluster.bootstrap, topic, [*events(100), b"\xff"], partition=0)
    with Hub(runtime="ray").source(source(cluster, topic)).emitter(out).start() as pipeline:
        got = out.wait_for(100)
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 101)
        wait_for(lambda: "101 records" in pipeline.health().components["source:kafka"][1])
        (letter,) = pipeline.dead_letters()
    assert [event.id for event in got] == [f"e{n:05d}" for n in range(100)]
    assert f"topic {topic}, partition 0, offset 100" in letter.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topics": "a b"}, "topics='a b'"),
        ({"topics": []}, "topics=''"),
        ({"topics": ["a", "^("]}, "topics='^('"),
        ({"group": ""}, "group=''"),
        ({"decode": "xml"}, "decode='xml'"),
        ({"window": 0}, "window=0"),
        ({"commit_seconds": 0}, "commit_seconds=0"),
        ({"bootstrap_servers": ""}, "bootstrap_servers=''"),
        ({"config": {"enable.auto.commit": True}}, "'enable.auto.commit' cannot be chosen"),
        ({"headers": "x"}, "headers='x'"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match="KafkaSource") as caught:
        KafkaSource(**{"topics": "t", "group": "g", "bootstrap_servers": "localhost:9092", **options})
    assert message in str(caught.value)


def test_transactions_and_static_members_are_properties_of_the_client() -> None:
    config = {"isolation.level": "read_uncommitted", "group.instance.id": "polku-1"}
    assert KafkaSource("t", "g", bootstrap_servers="a:1", config=config).settings().items() >= config.items()
    with Cluster("t:1") as cluster:
        for unfit in ({"isolation.level": "x"}, {"group.protocol": "consumer", "session.timeout.ms": 6_000}):
            pulled = KafkaSource("t", "g", bootstrap_servers=cluster.bootstrap, decode="event", config=unfit)
            with pytest.raises(PlanError, match=r"KafkaSource.*config: "):
                open_client("KafkaSource", confluent_kafka.Consumer, pulled.settings())


def test_bytes_that_nobody_can_read_are_an_error_of_the_plan() -> None:
    hub = Hub(runtime="inline").source(KafkaSource(["a", "b"], "g", bootstrap_servers="x:1")).emitter(print)
    with pytest.raises(PlanError, match=r"source 'a', which has no ingestor; add .ingestor\(..., source='a'\)"):
        hub.plan()
    hub.default_ingestor(parse).plan()


def test_a_source_is_checked_named_and_shown() -> None:
    pulled = KafkaSource("t", "g", bootstrap_servers="x:1", decode="json", config={"sasl.password": "secret"})
    assert isinstance(pulled.build(SystemClock()), Source)
    hub = Hub(runtime="inline").source(pulled).emitter(print)
    with pytest.raises(PlanError, match="two sources are called 'kafka'"):
        hub.source(pulled)
    with pytest.raises(PlanError, match="is no source"):
        hub.source(KafkaSource)
    hub.source(pulled, name="again")
    assert any(line.startswith("source    kafka: KafkaSource") for line in outline(hub.plan()))
    assert 'source_2(["again"])' in mermaid(hub.plan())
    assert "source_2 --> ingest" in mermaid(hub.plan())
    assert "secret" not in "\n".join(outline(hub.plan()))


def test_a_missing_client_names_the_command_that_installs_it() -> None:
    program = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from polku import Hub, KafkaSource\n"
        "hub = Hub(runtime='inline').source(KafkaSource('t', 'g', bootstrap_servers='a:1', decode='event'))\n"
        "hub.emitter(print).start()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert "pip install 'polku[kafka]'" in done.stderr
