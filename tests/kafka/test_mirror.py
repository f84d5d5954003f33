"""From topic to topic: each record arrives as it was, to the last field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import Event, Hub, KafkaEmitter, KafkaSource
from tests.kafka import mirror
from tests.kafka.broker import Cluster
from tests.kafka.clients import wait_for, write
from tests.support.recorder import Recorder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def source(at: Cluster, topic: str, **options: Any) -> KafkaSource:
    return KafkaSource(topic, f"group-{topic}", bootstrap_servers=at.bootstrap, **options)


def test_a_mirror_has_the_same_keys_values_headers_timestamps_and_partitions(cluster: Cluster) -> None:
    for topic in ("mirrored", "mirror"):
        cluster.tell("topic", topic, 3)
    placed = mirror.write(cluster.bootstrap, "mirrored", mirror.make(2_000), 3)
    with mirror.mirror(cluster.bootstrap, "mirrored", "mirror").start() as pipeline:
        assert mirror.read(cluster.bootstrap, "mirror", 2_000, 3) == placed
        assert pipeline.stop(30).complete
        assert not pipeline.dead_letters()


def test_a_record_s_fields_are_reserved_metadata(cluster: Cluster, tmp_path: Path) -> None:
    cluster.tell("topic", "fields", 2)
    headers: Any = [("traceparent", b"00-1"), ("h", None), ("h", b"\xff")]
    write(cluster.bootstrap, "fields", [b"\x00"], partition=1, key=b"\xff", headers=headers, timestamp=5)
    write(cluster.bootstrap, "fields", [None], partition=1, key=b"k", timestamp=1_700_000_000_000_000)
    out = Recorder(tmp_path / "out")
    with Hub(runtime="inline").source(source(cluster, "fields", decode="record")).emitter(out).start():
        record, tombstone = out.wait_for(2)
    assert record == Event(
        id="fields-1-0",
        source="fields",
        event_type="kafka.record",
        payload=b"\x00",
        timestamp_unix_ns=5_000_000,
        metadata={
            "traceparent": "00-1",
            "kafka.key.base64": "/w==",
            "kafka.topic": "fields",
            "kafka.partition": "1",
            "kafka.offset": "0",
            "kafka.timestamp": "5",
            "kafka.headers": '[["traceparent","00-1"],["h",null],["h",{"base64":"/w=="}]]',
        },
    )
    assert (tombstone.event_type, tombstone.payload) == ("kafka.tombstone", b"")
    assert tombstone.metadata["kafka.tombstone"] == "true"
    assert tombstone.metadata["kafka.timestamp"] == "1700000000000000"
    assert tombstone.timestamp_unix_ns > 1_000_000_000_000_000_000, "no event has room for that year: it came just now"


def test_chosen_fields_and_tombstones_come_with_other_values_too(cluster: Cluster, tmp_path: Path) -> None:
    cluster.tell("topic", "chosen", 1)
    stale = Event(id="a", event_type="t", metadata={"kafka.offset": "99", "kafka.tombstone": "true", "x": "y"})
    write(cluster.bootstrap, "chosen", [stale.SerializeToString(), None], partition=0, key=b"k")
    out = Recorder(tmp_path / "out")
    pulled = source(cluster, "chosen", decode="event", fields=["offset", "partition"], tombstones=True)
    with Hub(runtime="inline").source(pulled).emitter(out).start():
        event, tombstone = out.wait_for(2)
    assert dict(event.metadata) == {"kafka.offset": "0", "kafka.partition": "0", "x": "y"}
    assert dict(tombstone.metadata) == {"kafka.offset": "1", "kafka.partition": "0", "kafka.tombstone": "true"}
    assert tombstone.id == "chosen-0-1"


def test_tombstones_go_out_in_every_form_and_partition_and_time_can_be_chosen(cluster: Cluster) -> None:
    cluster.tell("topic", "out", 4)
    event = Event(id="a", source="s", event_type="t", timestamp_unix_ns=1_234_567_890, metadata={"p": "3"})
    event.metadata["kafka.tombstone"] = "true"
    for partition in (2, "{metadata[p]}", lambda event: 1):
        emitter = KafkaEmitter(
            "out", key="{id}", partition=partition, timestamp="event", bootstrap_servers=cluster.bootstrap
        )
        with Hub(runtime="inline").emitter(emitter).start() as pipeline:
            pipeline.sender().send(event)
            assert pipeline.stop(30).complete
    found = mirror.read(cluster.bootstrap, "out", 3, 4)
    assert {number: [record[:2] for record in records] for number, records in found.items()} == {
        0: [],
        1: [(b"a", None)],
        2: [(b"a", None)],
        3: [(b"a", None)],
    }
    assert {record.timestamp for records in found.values() for record in records} == {1_234}


def test_a_partition_that_is_not_there_and_metadata_that_is_none_of_a_record_are_dead_letters(cluster: Cluster) -> None:
    cluster.tell("topic", "narrow", 1)
    wrong = {
        "kafka.partition": ("7", "Unknown partition"),
        "kafka.timestamp": ("9" * 30, "'kafka.timestamp' is no time"),
        "kafka.headers": ("{}", "'kafka.headers' is no list of headers"),
    }
    emitter = KafkaEmitter("narrow", value="record", bootstrap_servers=cluster.bootstrap)
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        for name, (text, _) in wrong.items():
            pipeline.sender().send(Event(id=name, source="s", event_type="t", metadata={name: text}))
        wait_for(lambda: len(pipeline.dead_letters()) == len(wrong))
        reasons = {letter.event.id: letter.reason for letter in pipeline.dead_letters()}
    for name, (_, reason) in wrong.items():
        assert reason in reasons[name]
