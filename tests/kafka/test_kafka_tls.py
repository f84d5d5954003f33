"""Kafka over TLS: who is trusted, who may come, and certificates that change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from polku import Breaker, Certificate, Hub, KafkaEmitter, KafkaSource, PlanError, Resilience, Retry, new_event
from tests.kafka.broker import Cluster
from tests.kafka.clients import wait_for
from tests.kafka.tls_front import KafkaFront
from tests.support.authority import Authority, put, replace
from tests.support.encrypted import Tls, by_path, goes_there_and_back, reads_certificates_again
from tests.support.recorder import Recorder


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster("orders:1") as cluster:
        yield cluster


@pytest.fixture
def front(cluster: Cluster, authority: Authority) -> Iterator[KafkaFront]:
    front = KafkaFront(cluster.bootstrap, authority, authority.issue())
    yield front
    front.close()


def source(front: KafkaFront, tls: Tls) -> KafkaSource:
    options: dict[str, Any] = {"decode": "event", "commit_seconds": 0.2, **tls._asdict()}
    # The mock forgets a member that leaves only when its session ends.
    config = {"reconnect.backoff.max.ms": 500, "session.timeout.ms": 2_000, "heartbeat.interval.ms": 200}
    return KafkaSource("orders", "polku", bootstrap_servers=front.bootstrap, config=config, **options)


def emitter(front: KafkaFront, tls: Tls) -> KafkaEmitter:
    config = {"reconnect.backoff.max.ms": 500}
    return KafkaEmitter("orders", bootstrap_servers=front.bootstrap, config=config, timeout=5.0, **tls._asdict())


def test_events_go_there_and_back_encrypted_and_each_shows_who_it_is(
    front: KafkaFront, authority: Authority, tmp_path: Path
) -> None:
    goes_there_and_back(lambda tls: source(front, tls), lambda tls: emitter(front, tls), authority, tmp_path)
    assert set(front.shown) == {"polku"}


def test_certificates_that_are_replaced_are_read_again(
    cluster: Cluster, front: KafkaFront, authority: Authority, tmp_path: Path
) -> None:
    client = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "counting"})

    def count() -> int:
        _, high = client.get_watermark_offsets(TopicPartition("orders", 0), timeout=30)
        return int(high)

    reads_certificates_again(lambda tls: emitter(front, tls), count, authority, tmp_path)
    client.close()


def test_an_emitter_and_a_source_that_work_begin_again_with_another_certificate_and_lose_nothing(
    front: KafkaFront, authority: Authority, tmp_path: Path
) -> None:
    writes, reads = (put(authority.issue(name), _folder(tmp_path / name)) for name in ("writer", "reader"))
    out = Recorder(tmp_path / "out")
    reading = source(front, by_path(authority.cert, reads))
    with (
        Hub(runtime="inline").source(reading).emitter(out).start(),
        Hub(runtime="inline").emitter(emitter(front, by_path(authority.cert, writes))).start() as pipeline,
    ):
        sender = pipeline.sender()
        assert sender.send([new_event("order", source="shop", id=f"{n}") for n in range(10)]).ok
        out.wait_for(10, 60)
        assert set(front.shown) == {"writer", "reader"}
        replace(authority.issue("writer-2"), writes)
        replace(authority.issue("reader-2"), reads)
        wait_for(lambda: "reader-2" in front.shown)
        sent = 10

        def is_renewed() -> bool:
            nonlocal sent
            assert sender.send(new_event("order", source="shop", id=f"{sent}")).ok
            sent += 1
            return "writer-2" in front.shown

        wait_for(is_renewed)
        ids = [event.id for event in out.wait_for(sent, 60)]
    assert sorted(ids, key=int) == [f"{n}" for n in range(sent)]


def test_files_that_are_not_there_are_named_and_waited_for(
    front: KafkaFront, authority: Authority, tmp_path: Path
) -> None:
    good = authority.issue("polku")
    roots = tmp_path / "later.pem"
    tls = by_path(roots, good)
    patient = Resilience(emitter(front, tls), retry=Retry(first=0.05, limit=0.2), breaker=Breaker(open_for=0.1))
    out = Recorder(tmp_path / "out")
    with (
        Hub(runtime="inline").source(source(front, tls)).emitter(out).start() as reading,
        Hub(runtime="inline").emitter(patient).start() as writing,
    ):
        assert writing.sender().send(new_event("order", source="shop", id="one")).ok
        for pipeline in (reading, writing):
            wait_for(lambda: "later.pem': cannot be read" in str(pipeline.health().components))  # noqa: B023
        roots.write_bytes(authority.cert.read_bytes())
        assert [event.id for event in out.wait_for(1, 60)] == ["one"]


@pytest.mark.parametrize("make", [lambda **o: KafkaSource("t", "g", **o), lambda **o: KafkaEmitter("t", **o)])
def test_what_does_not_fit_is_refused(make: Any, authority: Authority) -> None:
    roots = str(authority.cert)
    options = {"bootstrap_servers": "localhost:9092", "root_certificates": roots}
    make(**options, config={"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"})
    with pytest.raises(PlanError, match=r"'ssl\.ca\.location' is said by root_certificates and certificate"):
        make(**options, config={"ssl.ca.location": roots})
    with pytest.raises(PlanError, match=r"'security\.protocol' is 'plaintext', and root_certificates is for TLS"):
        make(**options, config={"security.protocol": "plaintext"})
    with pytest.raises(PlanError, match=r"certificate must be a polku.Certificate\(chain, key\)"):
        make(bootstrap_servers="localhost:9092", certificate="a.pem")
    make(bootstrap_servers="localhost:9092", certificate=Certificate(b"chain", b"key"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
