"""What the KafkaSource makes of records; the brokers speak the protocol over real ports (`tests.kafka.broker`)."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import confluent_kafka
import pytest

from polku import Event, Hub, KafkaEmitter, KafkaSource, Limits, PlanError, RecordError, Severity, Source, new_event
from polku.cli.graph import mermaid, outline
from polku.clock import SystemClock
from polku.kafka.client import open_client
from polku.testing import SourceCheck, source_checks
from tests.kafka.broker import Cluster
from tests.kafka.clients import committed, read, wait_for, write
from tests.kafka.origin import KafkaOrigin
from tests.kafka.sources import events, source
from tests.support.recorder import Recorder
from tests.tracing.spans import InMemory, id_of, parent_of


def parse(data: bytes) -> list[Event | RecordError]:
    if data == b"bad":
        return [RecordError("this is bad")]
    if data == b"raise":
        raise ValueError("boom")
    return [Event(event_type="line", payload=part) for part in data.split(b",")]


@pytest.mark.parametrize("check", source_checks(KafkaOrigin.abilities), ids=str)
async def test_it_keeps_the_contract(check: SourceCheck) -> None:
    await check.run(KafkaOrigin())


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


@pytest.mark.parametrize("value", ["protobuf", "json"])
def test_the_pipeline_that_reads_goes_on_with_the_trace_of_the_one_that_sent(
    cluster: Cluster, topic: str, out: Recorder, value: str
) -> None:
    sending, reading = InMemory(), InMemory()
    emitter = KafkaEmitter(topic, bootstrap_servers=cluster.bootstrap, value=value)
    with Hub(runtime="inline").traces(sending).emitter(emitter).start() as pipeline:
        pipeline.sender().send(new_event("t", id="a", source="s", payload=b"{}"))
    pulled = source(cluster, topic, decode="event" if value == "protobuf" else "json")
    with Hub(runtime="inline").traces(reading).source(pulled).emitter(out).start():
        out.wait_for(1)
    (emit,), (intake,) = sending.named("emit"), reading.named("intake")
    assert parent_of(intake) == id_of(emit)


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
    with pytest.raises(PlanError, match="has both build and run: leave one of them out"):
        hub.source(SimpleNamespace(name="both", build=print, run=print))
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
