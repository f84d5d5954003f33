"""Records with everything that a record may have, and what a topic holds of them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from polku import Hub, KafkaEmitter, KafkaSource

Headers = list[tuple[str, bytes | None]]


class Mirrored(NamedTuple):
    """What a mirror has to keep; `timestamp` is in milliseconds."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int


def make(count: int, seed: int = 7) -> list[Mirrored]:
    """Return records of every kind: no key, no value, empty ones, bytes that are no text, headers again and null."""
    chance = random.Random(seed)

    def some(*choices: Any) -> Any:
        return chance.choice(choices)

    def header() -> tuple[str, bytes | None]:
        return some("a", "A", "ä", "traceparent", ""), some(None, b"", b"text", "ö".encode(), chance.randbytes(5))

    return [
        Mirrored(
            some(None, b"", f"key-{number % 50}".encode(), chance.randbytes(8)),
            some(None, b"", b"%d" % number, chance.randbytes(chance.randrange(200))),
            [header() for _ in range(some(0, 0, 1, 2, 5))],
            some(1, -5, 86_400_000, 1_700_000_000_000 + number, 1_700_000_000_000_000),  # the last in microseconds
        )
        for number in range(count)
    ]


def write(bootstrap: str, topic: str, records: Sequence[Mirrored], partitions: int) -> dict[int, list[Mirrored]]:
    """Write records to partitions in turn; return what each has, in order."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True})
    placed: dict[int, list[Mirrored]] = {number: [] for number in range(partitions)}
    errors: list[Any] = []

    def report(error: Any, message: Any) -> None:
        if error is not None:
            errors.append(error)

    for number, record in enumerate(records):
        partition = (number // 7) % partitions
        placed[partition].append(record)
        key, value, headers, timestamp = record
        while True:
            try:
                producer.produce(
                    topic, value, key, partition, timestamp=timestamp, headers=list(headers), on_delivery=report
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not errors, errors[0]
    return placed


def read(bootstrap: str, topic: str, count: int, partitions: int, timeout: float = 60.0) -> dict[int, list[Mirrored]]:
    """Return what each partition of a topic has, in order, once there are `count` records."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "mirror", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: dict[int, list[Mirrored]] = {number: [] for number in range(partitions)}
    deadline = time.monotonic() + timeout
    while sum(map(len, found.values())) < count and time.monotonic() < deadline:
        for message in consumer.consume(1_000, 0.2):
            if message.error() is None:
                partition = message.partition()
                assert partition is not None
                headers: Any = message.headers() or []
                found[partition].append(Mirrored(message.key(), message.value(), headers, message.timestamp()[1]))
    consumer.close()
    return found


def mirror(bootstrap: str, topic: str, other: str, **options: Any) -> Hub:
    """Return the pipeline that makes one topic the other's equal; `options` are the source's."""
    source = KafkaSource(
        *(topic, f"mirror-{topic}"), bootstrap_servers=bootstrap, decode="record", commit_seconds=0.2, **options
    )
    emitter = KafkaEmitter(other, bootstrap_servers=bootstrap, value="record")
    return Hub(runtime="inline").source(source).emitter(emitter)
