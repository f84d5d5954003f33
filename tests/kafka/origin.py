"""Kafka as the conformance suite of sources needs it: a partition of one broker, and one group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from polku import KafkaSource
from polku.testing import Origin, OriginAbility
from tests.kafka.broker import Cluster
from tests.kafka.clients import committed, write
from tests.kafka.real import OnRealBroker
from tests.kafka.sources import QUICK

TOPIC, GROUP = "origin", "check"


class KafkaOrigin(Origin):
    """One broker with one partition, which keeps what it has while it is away."""

    abilities = OriginAbility.COMMITS | OriginAbility.AWAY
    topic = TOPIC

    def __init__(self) -> None:
        self.cluster: Cluster | None = None

    @property
    def bootstrap(self) -> str:
        assert self.cluster is not None
        return self.cluster.bootstrap

    async def start(self) -> None:
        if self.cluster is None:
            self.cluster = await asyncio.to_thread(Cluster, f"{self.topic}:1")
        else:
            self.cluster.tell("up", 1)

    async def stop(self) -> None:
        if self.cluster is not None:
            self.cluster.close()

    async def kill(self) -> None:
        assert self.cluster is not None
        self.cluster.tell("down", 1)

    def source(self) -> KafkaSource:
        return KafkaSource(
            self.topic,
            f"{GROUP}-{self.topic}",
            bootstrap_servers=self.bootstrap,
            decode="record",
            window=self.window,
            commit_seconds=0.1,
            config=QUICK,
        )

    async def put(self, texts: Sequence[str]) -> None:
        values = [text.encode() for text in texts]
        await asyncio.to_thread(write, self.bootstrap, self.topic, values, partition=0)

    async def committed(self) -> int:
        (offset,) = await asyncio.to_thread(committed, self.bootstrap, f"{GROUP}-{self.topic}", self.topic)
        return max(0, offset)


class RealKafkaOrigin(OnRealBroker, KafkaOrigin):
    """A partition of a real broker."""

    abilities = OriginAbility.COMMITS
    prefix = TOPIC
