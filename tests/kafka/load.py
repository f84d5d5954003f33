"""Numbered records, written one after the other until told to stop, and an oracle over what became of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

_PAUSE = 0.02  # seconds between bursts
_BURST = 10


class Load:
    """Write to the partitions of a topic in turn; `acknowledged` has what the brokers took, by partition."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.acknowledged: dict[int, list[int]] = {number: [] for number in range(partitions)}
        self._topic, self._partitions = topic, partitions
        settings = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 0, "linger.ms": 5}
        self._producer = Producer({**settings, "reconnect.backoff.max.ms": 500, "log_level": 0})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def stop(self) -> int:
        """Stop, and return how many records were acknowledged in all."""
        self._stopped.set()
        self._thread.join()
        assert self._producer.flush(120) == 0
        return sum(map(len, self.acknowledged.values()))

    def _write(self) -> None:
        number = 0
        while not self._stopped.wait(_PAUSE):
            for _ in range(_BURST):
                partition = number % self._partitions
                self._producer.produce(self._topic, b"%d" % number, partition=partition, on_delivery=self._report)
                number += 1
            self._producer.poll(0)

    def _report(self, error: Any, message: Any) -> None:
        if error is None:
            self.acknowledged[message.partition()].append(int(message.value()))


def end_of(bootstrap: str, topic: str, partitions: int) -> int:
    """Return how many records a topic has, once its broker says so: one that starts has no leaders for a while."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "end", "log_level": 0})
    places = [TopicPartition(topic, number) for number in range(partitions)]
    deadline = time.monotonic() + 60.0
    try:
        while True:
            try:
                return sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    finally:
        consumer.close()


def judge(bootstrap: str, topic: str, acknowledged: Mapping[int, Sequence[int]], timeout: float = 120.0) -> int:
    """Make sure that nothing acknowledged is lost or out of order; return how many records came again."""
    found = _read(bootstrap, topic, acknowledged, timeout)
    repeated = 0
    for partition, came in found.items():
        first = list(dict.fromkeys(came))
        lost = sorted(set(acknowledged[partition]) - set(came))
        assert not lost, f"partition {partition} lost {len(lost)}: {lost[:10]}"
        assert first == sorted(first), f"partition {partition} is out of order"
        repeated += len(came) - len(first)
    return repeated


def _read(bootstrap: str, topic: str, expected: Mapping[int, Sequence[int]], timeout: float) -> dict[int, list[int]]:
    """Return the numbers in each partition, once all that are expected are there, or the time is over."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "judge", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in expected])
    found: dict[int, list[int]] = {partition: [] for partition in expected}
    missing = {number for numbers in expected.values() for number in numbers}
    deadline = time.monotonic() + timeout
    while missing and time.monotonic() < deadline:
        for message in consumer.consume(1_000, 0.2):
            if message.error() is None:
                partition, value = message.partition(), message.value()
                assert partition is not None
                number = int(value or b"-1")
                found[partition].append(number)
                missing.discard(number)
    consumer.close()
    return found
