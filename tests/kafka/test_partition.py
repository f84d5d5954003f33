"""What may be committed of one partition."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku.errors import DrainingError
from polku.kafka.partition import Partition, split_places


class Message:
    def __init__(self, offset: int, size: int = 1) -> None:
        self._offset, self._size = offset, size

    def offset(self) -> int:
        return self._offset

    def __len__(self) -> int:
        return self._size


class Placed:
    def __init__(self, topic: str, partition: int) -> None:
        self._topic, self._partition = topic, partition

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition


def fill(partition: Partition, *offsets: int) -> None:
    partition.arrived([Message(offset) for offset in offsets])


async def leave(partition: Partition) -> asyncio.Future[None]:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    partition.left(await partition.chunk(), answer)
    return answer


@pytest.fixture
def partition() -> Partition:
    unused: Any = None
    return Partition(unused)


async def test_only_what_is_answered_without_a_gap_may_be_committed(partition: Partition) -> None:
    answers = []
    for offset in (5, 6, 9):  # offsets may have holes
        fill(partition, offset)
        answers.append(await leave(partition))
    answers[1].set_result(None)
    partition.settle()
    assert (partition.answered, partition.records) == (-1, 3)
    answers[0].set_result(None)
    partition.settle()
    assert (partition.answered, partition.records) == (7, 1)
    answers[2].set_result(None)
    partition.settle()
    assert (partition.answered, partition.records, partition.bytes) == (10, 0, 0)
    await asyncio.wait_for(partition.idle(), 30)


async def test_what_failed_is_never_passed(partition: Partition) -> None:
    fill(partition, 1)
    failed = await leave(partition)
    fill(partition, 2)
    taken = await leave(partition)
    failed.set_exception(DrainingError("the end"))
    taken.set_result(None)
    partition.settle()
    assert partition.answered == -1
    await asyncio.wait_for(partition.idle(), 30)


async def test_offsets_that_begin_again_are_taken_counted_and_committed() -> None:
    restarts: list[tuple[int, int]] = []
    unused: Any = None
    partition = Partition(unused, lambda before, offset: restarts.append((before, offset)))
    fill(partition, *range(100, 110))
    old = await leave(partition)
    fill(partition, 0, 1, 2)  # the topic was made again
    new = await leave(partition)
    assert restarts == [(110, 0)]
    old.set_result(None)
    partition.settle()
    assert (partition.answered, partition.dirty) == (110, True)
    partition.requested = partition.committed = 110
    assert not partition.dirty
    new.set_result(None)
    partition.settle()
    assert (partition.answered, partition.dirty, partition.is_ahead) == (3, True, True)
    partition.requested = 3
    assert not partition.dirty  # its commit is in flight
    await asyncio.wait_for(partition.idle(), 30)


async def test_chunks_are_bounded_by_records_and_by_bytes(partition: Partition) -> None:
    fill(partition, *range(700))
    fill(partition, *range(700, 1400))
    assert [len((await partition.chunk()).messages) for _ in range(2)] == [1_000, 400]
    partition.arrived([Message(offset, 300 * 1024) for offset in range(1400, 1403)])
    partition.arrived([Message(1403, 600 * 1024), Message(1404), Message(1405)])
    chunks = [await partition.chunk() for _ in range(5)]
    assert [[message.offset() for message in chunk.messages] for chunk in chunks] == [
        *([offset] for offset in range(1400, 1404)),
        [1404, 1405],
    ]
    assert [chunk.size for chunk in chunks] == [*[300 * 1024] * 3, 600 * 1024, 2]


async def test_offsets_that_begin_again_within_what_came_together_are_noticed() -> None:
    restarts: list[tuple[int, int]] = []
    unused: Any = None
    partition = Partition(unused, lambda before, offset: restarts.append((before, offset)))
    fill(partition, 7, 8, 0, 1)
    assert restarts == [(9, 0)]
    assert partition.next == 2


async def test_what_waits_can_be_forgotten(partition: Partition) -> None:
    fill(partition, 1)
    answer = await leave(partition)
    fill(partition, 2, 3)
    partition.forget_waiting()
    assert partition.records == 1
    answer.set_result(None)
    partition.settle()
    assert partition.answered == 2
    await asyncio.wait_for(partition.idle(), 30)


def test_records_are_cut_where_topic_or_partition_changes() -> None:
    def cut(*places: tuple[str, int]) -> list[tuple[tuple[str, int], int]]:
        return [(place, len(run)) for place, run in split_places([Placed(*place) for place in places])]

    a, b, other = ("a", 0), ("b", 0), ("a", 1)
    assert cut() == []
    assert cut(a, a) == [(a, 2)]
    assert cut(a, b, a) == [(a, 1), (b, 1), (a, 1)]
    assert cut(a, other, other, b) == [(a, 1), (other, 2), (b, 1)]
    assert cut(a, a, b, other, a) == [(a, 2), (b, 1), (other, 1), (a, 1)]
