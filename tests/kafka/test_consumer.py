"""What a consumer commits: only of partitions that are still its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from polku.kafka.consumer import Consumer, Offsets, Place

PLACE: Place = ("t", 0)


class Listener:
    """Hear of partitions, and have something to commit of them."""

    def __init__(self) -> None:
        self.ours: set[Place] = set()
        self.faults: list[BaseException] = []
        self.fault: Exception | None = None

    def assigned(self, places: Sequence[Place]) -> None:
        if self.fault is not None:
            raise self.fault
        self.ours.update(places)

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        self.ours.difference_update(places)
        return dict.fromkeys(places, 7)

    def lost(self, places: Sequence[Place]) -> None:
        self.ours.difference_update(places)

    def committed(self, offsets: Offsets, fault: str) -> None: ...

    def failed(self, error: BaseException) -> None:
        self.faults.append(error)


class Client:
    """Keep what is committed."""

    def __init__(self) -> None:
        self.commits: list[int] = []

    def commit(self, *, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        self.commits += [place.offset for place in offsets]


class Bench:
    """A consumer without its thread: the test makes the calls that librdkafka makes."""

    def __init__(self) -> None:
        self.listener = Listener()
        self.client = Client()
        consumer: Any = Consumer.__new__(Consumer)
        consumer._loop = asyncio.get_running_loop()
        consumer._listener, consumer._client = self.listener, self.client
        consumer._make, consumer._error = TopicPartition, confluent_kafka.KafkaException
        consumer._calls, consumer._paused = deque(), set()
        consumer._lives, consumer._heard_lives = {}, {}
        consumer._revoke_timeout = 5.0
        self.consumer: Any = consumer

    async def assign(self) -> None:
        self.consumer._on_assign(None, [TopicPartition(*PLACE)])
        await asyncio.sleep(0)


async def test_what_is_to_be_committed_when_a_partition_is_lost_is_not_committed_any_more() -> None:
    bench = Bench()
    await bench.assign()
    bench.consumer.commit({PLACE: 5})
    bench.consumer._make_calls()
    assert bench.client.commits == [5]
    bench.consumer.commit({PLACE: 6})
    bench.consumer._on_lost(None, [TopicPartition(*PLACE)])
    bench.consumer._make_calls()
    assert bench.client.commits == [5]


async def test_a_partition_that_comes_back_gets_no_commit_of_its_life_before() -> None:
    bench = Bench()
    await bench.assign()
    bench.consumer._on_lost(None, [TopicPartition(*PLACE)])
    bench.consumer._on_assign(None, [TopicPartition(*PLACE)])
    bench.consumer.commit({PLACE: 6})  # the loop has heard of neither yet
    await asyncio.sleep(0)
    bench.consumer._make_calls()
    assert bench.client.commits == []
    bench.consumer.commit({PLACE: 9})
    bench.consumer._make_calls()
    assert bench.client.commits == [9]


async def test_a_revocation_commits_its_own_offsets_and_nothing_after_them() -> None:
    bench = Bench()
    await bench.assign()
    bench.consumer.commit({PLACE: 5})
    await asyncio.to_thread(bench.consumer._on_revoke, None, [TopicPartition(*PLACE)])
    bench.consumer._make_calls()
    assert bench.client.commits == [7]


async def test_a_revocation_that_is_not_answered_in_time_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    cancelled = asyncio.Event()

    async def revoked(places: Sequence[Place]) -> Offsets:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    monkeypatch.setattr(bench.listener, "revoked", revoked)
    bench.consumer._revoke_timeout = -4.9
    await bench.assign()
    await asyncio.to_thread(bench.consumer._on_revoke, None, [TopicPartition(*PLACE)])
    await asyncio.wait_for(cancelled.wait(), 30)
    await asyncio.sleep(0)
    assert bench.client.commits == []
    assert bench.listener.ours == set()


async def test_a_listener_that_cannot_take_a_partition_ends_the_source_with_its_error() -> None:
    bench = Bench()
    bench.listener.fault = RuntimeError("no such reader")
    await bench.assign()
    assert bench.listener.faults == [bench.listener.fault]
