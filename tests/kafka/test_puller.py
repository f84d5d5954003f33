"""What is done about partitions of which more has come than there is room for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Message

from polku import KafkaSource
from polku.kafka.partition import Partition
from polku.kafka.puller import Puller

PLACE = ("t", 0)


class Consumer:
    """Write down what a puller asks for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold(self) -> None:
        self.calls.append("hold")

    def go_on(self) -> None:
        self.calls.append("go on")

    def pause(self, place: tuple[str, int]) -> None:
        self.calls.append("pause")

    def resume(self, place: tuple[str, int]) -> None:
        self.calls.append("resume")


class Bench:
    """A puller without a client: the test brings the records, and the answers."""

    def __init__(self, window: int) -> None:
        puller: Any = Puller(KafkaSource("t", "g", bootstrap_servers="localhost:1", window=window))
        self.consumer = puller._consumer = Consumer()
        unused: Any = None
        self.partition = puller._partitions[PLACE] = Partition(unused)
        self.puller = puller

    def bring(self, offsets: Sequence[int]) -> None:
        self.puller.arrived([Message(*PLACE, offset, value=b"v") for offset in offsets])

    async def answer(self) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.partition.left(await self.partition.chunk(), answer)
        answer.set_result(None)
        self.puller._answered(PLACE, self.partition, answer)


async def test_a_partition_that_is_full_for_a_moment_holds_the_consumer_up_and_keeps_what_was_fetched() -> None:
    bench = Bench(window=10)
    bench.bring(range(10))
    assert bench.consumer.calls == []
    bench.bring(range(10, 20))
    assert bench.consumer.calls == ["hold"]
    await bench.answer()
    assert bench.consumer.calls == ["hold", "go on"]
    bench.bring(range(20, 40))
    await bench.answer()
    assert bench.consumer.calls == ["hold", "go on"] * 2


async def test_a_partition_that_stays_full_is_paused_so_that_others_go_on() -> None:
    bench = Bench(window=10)
    bench.bring(range(20))
    deadline = time.monotonic() + 30
    while bench.consumer.calls != ["hold", "pause", "go on"]:
        assert time.monotonic() < deadline, bench.consumer.calls
        await asyncio.sleep(0.01)
    bench.bring(range(20, 30))  # what was on its way
    assert bench.consumer.calls[3:] == []
    await bench.answer()
    assert bench.consumer.calls[3:] == ["resume"]


async def test_a_partition_that_is_lost_while_it_is_full_holds_nobody_up() -> None:
    bench = Bench(window=10)
    bench.bring(range(20))
    bench.puller.lost([PLACE])
    assert bench.consumer.calls == ["hold", "go on"]


async def test_partitions_that_are_assigned_while_it_leaves_the_group_are_left_alone() -> None:
    puller = Puller(KafkaSource("t", "g", bootstrap_servers="127.0.0.1:1"))
    await puller.close()
    puller.assigned([("t", 0)])
    assert puller.state().text.startswith("0 partitions")


async def test_partitions_that_are_assigned_while_it_is_about_to_join_again_are_left_alone() -> None:
    puller = Puller(KafkaSource("t", "g", bootstrap_servers="127.0.0.1:1"))
    opened: list[str] = []

    def open_stream(source: str, **_: Any) -> Any:
        opened.append(source)

    running = asyncio.ensure_future(puller.run(open_stream))
    await asyncio.sleep(0)
    assert puller._consumer is not None
    puller._consumer.stop()
    puller.assigned([("t", 0)])
    assert (opened, puller.state().text[:12]) == ([], "0 partitions")
    await puller.close()
    await running
