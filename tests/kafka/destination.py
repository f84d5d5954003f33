"""Kafka as the conformance suite needs it: brokers that can be taken away, and that can keep their answers back."""

from __future__ import annotations

import asyncio

from confluent_kafka import Consumer, TopicPartition

from polku import KafkaEmitter
from polku.testing import Ability, Destination
from tests.kafka.broker import Cluster
from tests.kafka.real import OnRealBroker

TOPIC = "conformance"


class Kafka(Destination):
    """One broker with one partition, which keeps what it has while it is away."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG
    topic = TOPIC

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.away = False
        self.before = 0

    async def start(self) -> None:
        if self.cluster is None:
            self.cluster = await asyncio.to_thread(Cluster, f"{TOPIC}:1")
        if self.away:
            self.cluster.tell("up", 1)
        self.away = False

    async def stop(self) -> None:
        if self.cluster is not None:
            self.cluster.close()

    def emitter(self) -> KafkaEmitter:
        quick = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
        return KafkaEmitter(self.topic, bootstrap_servers=self.bootstrap, config=quick)

    @property
    def bootstrap(self) -> str:
        return self.running.bootstrap

    @property
    def running(self) -> Cluster:
        assert self.cluster is not None
        return self.cluster

    async def held(self) -> list[str]:
        return await asyncio.to_thread(self._read)

    async def kill(self) -> None:
        self.away = True
        self.running.tell("down", 1)

    async def hang(self) -> None:
        self.before = len(await self.held())
        self.running.tell("withhold")

    async def resume(self) -> None:
        """Confirm again; the confirmations that are withheld go with their connections."""
        self.running.tell("up", 1)
        await asyncio.to_thread(self.running.tell, "confirm")
        self.running.tell("down", 1)
        if not self.away:
            self.running.tell("up", 1)

    async def is_waited_for(self) -> bool:
        return len(await self.held()) > self.before

    def _read(self) -> list[str]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "held"})
        place = TopicPartition(self.topic, 0, 0)
        consumer.assign([place])
        _, end = consumer.get_watermark_offsets(place, timeout=30)
        ids: list[str] = []
        while len(ids) < end:
            for message in consumer.consume(end - len(ids), 0.05):
                if message.error() is None:
                    headers = dict(message.headers() or ())
                    value = headers["id"]
                    assert isinstance(value, bytes)
                    ids.append(value.decode())
        consumer.close()
        return ids


class RealKafka(OnRealBroker, Kafka):
    """A partition of a real broker."""

    abilities = Ability.ORDER
    prefix = TOPIC
