"""What may be committed of one partition."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku.errors import DrainingError
from polku.kafka.partition import Partition


class Message:
    def __init__(self, offset: int, size: int = 1) -> None:
        self._offset, self._size = offset, size

    def offset(self) -> int:
        return self._offset

    def __len__(self) -> int:
        return self._size


def fill(partition: Partition, *offsets: int) -> None:
    for offset in offsets:
        partition.arrived(Message(offset))


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
    await asyncio.wait_for(partition.idle(), 1)


async def test_what_failed_is_never_passed(partition: Partition) -> None:
    fill(partition, 1)
    failed = await leave(partition)
    fill(partition, 2)
    taken = await leave(partition)
    failed.set_exception(DrainingError("the end"))
    taken.set_result(None)
    partition.settle()
    assert partition.answered == -1
    await asyncio.wait_for(partition.idle(), 1)


async def test_a_record_that_comes_again_is_passed_over(partition: Partition) -> None:
    fill(partition, 3, 4, 3, 4, 5)
    assert [message.offset() for message in await partition.chunk()] == [3, 4, 5]


async def test_chunks_are_bounded_by_records_and_by_bytes(partition: Partition) -> None:
    fill(partition, *range(700))
    assert [len(await partition.chunk()), len(await partition.chunk())] == [500, 200]
    for offset in range(700, 703):
        partition.arrived(Message(offset, 300 * 1024))
    assert [len(await partition.chunk()) for _ in range(3)] == [1, 1, 1]


async def test_what_waits_can_be_forgotten(partition: Partition) -> None:
    fill(partition, 1)
    answer = await leave(partition)
    fill(partition, 2, 3)
    partition.forget_waiting()
    assert partition.records == 1
    answer.set_result(None)
    partition.settle()
    assert partition.answered == 2
    await asyncio.wait_for(partition.idle(), 1)
