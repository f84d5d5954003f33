"""Source and emitter against Apache's own broker; what the mock cannot do, and at length what it can."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from polku import Event, Hub, KafkaEmitter, KafkaSource
from polku.kafka.puller import Puller
from polku.testing import EmitterCheck, SourceCheck, emitter_checks, source_checks
from tests.kafka import mirror
from tests.kafka.clients import committed, wait_for, write
from tests.kafka.destination import RealKafka
from tests.kafka.load import Load, end_of, judge
from tests.kafka.origin import RealKafkaOrigin
from tests.kafka.real import Broker, broker
from tests.support.recorder import Recorder

pytestmark = pytest.mark.slow

ANY_TIME = {"message_timestamp_after_max_ms": str(2**63 - 1)}
QUICK = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500, "reconnect.backoff.max.ms": 500}
PROTOCOLS = {
    "range": QUICK,
    "cooperative": {**QUICK, "partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer", "reconnect.backoff.max.ms": 500},
}
PARTITIONS = 6


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("kafka")) as node:
        yield node


def source(at: Broker, topic: str, **options: Any) -> KafkaSource:
    options = {"config": QUICK, "decode": "record", "commit_seconds": 0.2, **options}
    return KafkaSource(topic, f"group-{topic}", bootstrap_servers=at.bootstrap, **options)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [pytest.param(c, id=str(c)) for c in emitter_checks(RealKafka.abilities)])
async def test_the_emitter_keeps_the_contract(kafka: Broker, check: EmitterCheck) -> None:
    await check.run(await asyncio.to_thread(RealKafka, kafka))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [pytest.param(c, id=str(c)) for c in source_checks(RealKafkaOrigin.abilities)])
async def test_the_source_keeps_the_contract(kafka: Broker, check: SourceCheck) -> None:
    await check.run(await asyncio.to_thread(RealKafkaOrigin, kafka))


def test_a_mirror_of_100_000_records_is_exact(kafka: Broker) -> None:
    for topic in ("mirrored", "mirror"):
        kafka.topic(topic, PARTITIONS, **ANY_TIME)
    placed = mirror.write(kafka.bootstrap, "mirrored", mirror.make(100_000), PARTITIONS)
    with mirror.mirror(kafka.bootstrap, "mirrored", "mirror").start() as pipeline:
        found = mirror.read(kafka.bootstrap, "mirror", 100_000, PARTITIONS, timeout=300.0)
        assert pipeline.stop(60).complete
        assert not pipeline.dead_letters()
    for partition, records in placed.items():
        assert found[partition] == records


def test_a_record_says_that_its_time_is_the_broker_s(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.topic("appended", 1, message_timestamp_type="LogAppendTime")
    write(kafka.bootstrap, topic, [b"x"], partition=0, timestamp=5)
    out = Recorder(tmp_path / "out")
    with Hub(runtime="inline").source(source(kafka, topic)).emitter(out).start():
        (event,) = out.wait_for(1)
    assert event.metadata["kafka.timestamp.type"] == "append"
    assert event.metadata["kafka.timestamp"] == str(event.timestamp_unix_ns // 1_000_000)
    assert int(event.metadata["kafka.timestamp"]) > 1_700_000_000_000, "not 5"


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_of_transactions_what_was_committed_is_read(kafka: Broker, tmp_path: Path, isolation: str) -> None:
    topic = kafka.topic(f"transactions-{isolation}", 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": isolation})
    producer.init_transactions()
    for number, end in enumerate([producer.commit_transaction, producer.abort_transaction] * 3):
        producer.begin_transaction()
        for part in "ab":
            producer.produce(topic, f"{number}{part}")
        producer.flush()
        end()
    out = Recorder(tmp_path / "out")
    config = {"isolation.level": isolation} if isolation == "read_uncommitted" else {}
    pulled = source(kafka, topic, config={**QUICK, **config})
    expected = [f"{n}{part}".encode() for n in range(6) for part in "ab" if config or n % 2 == 0]
    with Hub(runtime="inline").source(pulled).emitter(out).start() as pipeline:
        assert [event.payload for event in out.wait_for(len(expected), 60)] == expected
        assert pipeline.stop(30).complete
    # Each transaction takes three offsets: two records, and the marker that says how it ended.
    assert committed(kafka.bootstrap, f"group-{topic}", topic) == [17 if config else 14]


def test_a_static_member_comes_back_to_its_partitions_and_the_others_keep_theirs(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.topic("static", 4)
    revoked: list[Puller] = []
    revoke = Puller.revoked

    async def heard(self: Puller, places: Any) -> Any:
        revoked.append(self)
        return await revoke(self, places)

    monkeypatch.setattr(Puller, "revoked", heard)

    def start(name: str) -> Any:
        config = {**QUICK, "session.timeout.ms": 60_000, "group.instance.id": name}
        return Hub(runtime="inline").source(source(kafka, topic, config=config)).emitter(Recorder(tmp_path / name))

    def has_two(pipeline: Any) -> bool:
        return "2 partitions" in pipeline.health().components["source:kafka"][1]

    with start("one").start() as one:
        two = start("two").start()
        wait_for(lambda: has_two(one) and has_two(two), 60)
        revoked.clear()
        assert two.stop(30).complete
        with start("two").start() as again:
            wait_for(lambda: has_two(again), 60)
            for partition in range(4):
                write(kafka.bootstrap, topic, [b"x"] * 10, partition=partition)
            wait_for(lambda: committed(kafka.bootstrap, f"group-{topic}", topic, 4) == [10] * 4, 60)
            assert has_two(one)
            assert len(revoked) == 1, "that of the one that left, by its own hand"


def test_of_two_members_with_the_same_name_the_first_is_unhealthy_and_takes_nothing_more(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.topic("fenced", 1)
    pulled = source(kafka, topic, config={**QUICK, "group.instance.id": "same"})
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two")
    with Hub(runtime="inline").source(pulled).emitter(one).start() as first:
        wait_for(lambda: "1 partitions" in first.health().components["source:kafka"][1], 60)
        with Hub(runtime="inline").source(pulled).emitter(two).start():
            wait_for(lambda: not first.health().components["source:kafka"][0], 60)
            assert "fenced by other consumer" in first.health().components["source:kafka"][1]
            write(kafka.bootstrap, topic, [b"x"] * 10, partition=0)
            two.wait_for(10, 60)
    assert not one.events()


def test_a_record_that_brokers_refuse_costs_only_itself(kafka: Broker) -> None:
    topic = kafka.topic("compacted", 1, cleanup_policy="compact")
    events = [Event(id=f"e{n}", source="s", event_type="t", metadata={"kafka.key": "k"}) for n in range(20)]
    del events[7].metadata["kafka.key"]
    events[9].metadata["kafka.tombstone"] = "true"
    emitter = KafkaEmitter(topic, value="record", bootstrap_servers=kafka.bootstrap)
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        pipeline.sender().send(events)
        assert pipeline.stop(60).complete
        (letter,) = pipeline.dead_letters()
    assert letter.event.id == "e7"
    assert "INVALID_RECORD" in letter.reason
    (records,) = mirror.read(kafka.bootstrap, topic, 19, 1).values()
    assert sum(record.value is None for record in records) == 1


class Members:
    """Mirrors in processes of their own, all of one group."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "tests.kafka.mirror_program", *arguments]
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        started = [subprocess.Popen(self._command, stdout=subprocess.PIPE) for _ in range(count)]
        self._running += started
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """Kill the one that is longest there."""
        process = self._running.pop(0)
        process.kill()
        process.communicate()

    def end(self) -> None:
        while self._running:
            self.kill()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_acknowledged_is_lost_while_members_and_the_broker_are_killed(kafka: Broker, protocol: str) -> None:
    topic, other = (kafka.topic(f"{name}-{protocol}", PARTITIONS) for name in ("load", "copy"))
    members = Members(kafka.bootstrap, topic, other, json.dumps(PROTOCOLS[protocol]))
    load = Load(kafka.bootstrap, topic, PARTITIONS)

    def goes_on(records: int = 500) -> None:
        end = end_of(kafka.bootstrap, other, PARTITIONS) + records
        wait_for(lambda: end_of(kafka.bootstrap, other, PARTITIONS) >= end, 120)

    try:
        members.start(3)
        goes_on()
        members.kill()
        members.start(1)
        goes_on()
        kafka.kill()
        kafka.start()
        goes_on()
        members.kill()
        kafka.kill()
        members.start(1)
        kafka.start()
        goes_on()
        count = load.stop()
        repeated = judge(kafka.bootstrap, other, load.acknowledged)
    finally:
        load.stop()
        members.end()
    print(f"{protocol}: {count} records, {repeated} came again")


def test_the_benchmark_measures_the_brokers_that_it_is_given_and_leaves_no_topic(kafka: Broker) -> None:
    command = [sys.executable, "-m", "tests.bench.kafka", "--bootstrap", kafka.bootstrap, "--events", "2000"]
    roles = ["bare-out", "polku-out", "bare-in", "polku-in", "polku-mirror"]
    client = AdminClient({"bootstrap.servers": kafka.bootstrap})
    seen: set[str] = set()
    with subprocess.Popen(
        [*command, "--rounds", "1", "--roles", *roles], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        while process.poll() is None:
            seen |= {topic for topic in client.list_topics(timeout=30).topics if topic.startswith("bench-")}
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0
    for role in roles:
        assert f"| {role} | " in printed
    assert {topic.split("-", 2)[2] for topic in seen} >= {"bare-out", "polku-out", "in", "in-polku"}
    assert not [topic for topic in client.list_topics(timeout=30).topics if topic.startswith("bench-")]
