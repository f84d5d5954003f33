"""The other end: bare Kafka clients that write and read what a test needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition


def read(bootstrap: str, topic: str, count: int, partitions: int = 1, timeout: float = 60.0) -> list[Any]:
    """Return the records of a topic, by partition and offset, once there are `count` that differ in their headers."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    records: list[Any] = []
    deadline = time.monotonic() + timeout
    while _different(records) < count and time.monotonic() < deadline:
        records += [message for message in consumer.consume(count, 0.2) if message.error() is None]
    consumer.close()
    assert _different(records) >= count, f"{_different(records)} of {count} records came"
    return sorted(records, key=lambda message: (message.partition(), message.offset()))


def _different(records: Sequence[Any]) -> int:
    """Count records; those that were sent again have the same headers."""
    return len({str(message.headers() or (message.partition(), message.offset())) for message in records})


def write(bootstrap: str, topic: str, values: Sequence[bytes | None], **options: Any) -> None:
    """Write records, in order, and wait until the brokers have them."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
    for value in values:
        while True:
            try:
                producer.produce(topic, value, **options)
                break
            except BufferError:  # the client's own queue is full
                producer.poll(0.1)
    assert producer.flush(20) == 0


def committed(bootstrap: str, group: str, topic: str, partitions: int = 1) -> list[int]:
    """Return the committed offset of each partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    places = [TopicPartition(topic, number) for number in range(partitions)]
    offsets = [place.offset for place in consumer.committed(places, timeout=30)]
    consumer.close()
    return offsets


def wait_for(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Return once a condition holds; fail where it does not within the time, in seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
