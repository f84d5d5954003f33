"""What became of records: confirmed is only what was reported so."""

from __future__ import annotations

import asyncio
from typing import Any

import confluent_kafka
import pytest

from polku.errors import RetryableError
from polku.kafka.client import UnfitError
from polku.kafka.producer import Left, Producer, Sending
from polku.kafka.record import Record

NOBODY = {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 0}


def records(count: int) -> list[Record]:
    return [Record(str(n), "t", None, b"", [], n) for n in range(count)]


def handed_in(count: int) -> Sending:
    sending = Sending()
    sending.handed_in = count
    return sending


async def test_while_anything_is_not_reported_nothing_is_delivered() -> None:
    sending = handed_in(3)
    error = confluent_kafka.KafkaError(confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE)
    sending.report(1, error, None)
    three = records(3)
    assert sending.left(three) == [Left(three[0], None), Left(three[1], error), Left(three[2], None)]
    assert (sending.taken(three), sending.confirmed) == ([], 0)


async def test_when_everything_is_reported_what_did_not_fail_is_delivered() -> None:
    sending = handed_in(4)
    error = confluent_kafka.KafkaError(confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE)
    for number, fault in ((3, None), (1, error), (0, None)):
        sending.report(number, fault, None)
    sending.is_settled = True
    five = records(5)
    assert sending.left(five) == [Left(five[1], error), Left(five[4], None)], "and nothing that was not handed in"
    assert (sending.taken(five), sending.confirmed) == ([five[0], five[2], five[3]], 3)


async def test_a_sending_is_settled_when_the_queue_is_empty_and_all_is_in() -> None:
    class Queue:
        left = 1

        def __len__(self) -> int:
            return self.left

    producer: Any = Producer.__new__(Producer)
    producer._loop, producer._client = asyncio.get_running_loop(), Queue()
    sending = producer._sending = handed_in(1)
    producer._look(1)
    sending.is_all_in = True
    producer._look(1)
    assert not sending.is_settled
    producer._client.left = 0
    sending.is_all_in = False
    producer._look(1)
    assert not sending.is_settled, "more may be handed in"
    sending.is_all_in = True
    producer._look(0)
    await asyncio.wait_for(sending.wait(), 30)
    assert sending.confirmed == 1


async def test_waiting_ends_when_nothing_will_be_reported_any_more() -> None:
    sending = handed_in(1)
    waiting = asyncio.ensure_future(sending.wait())
    await asyncio.sleep(0)
    sending.is_over = True
    sending.news.set()
    await asyncio.wait_for(waiting, 30)


async def test_a_record_that_the_client_does_not_take_fails_alone() -> None:
    producer = Producer("KafkaEmitter", NOBODY, lambda error: None, lambda: None)
    try:
        headers: Any = [("id", "\udc80")]
        two = [Record("bad", "t", None, b"", headers, 0), Record("good", "t", None, b"", [], 1)]
        sending = producer.begin()
        assert producer.hand_in(sending, two) == 2
        assert isinstance(sending.failed[0], UnfitError)
        assert 1 not in sending.failed
    finally:
        await producer.close()


async def test_taking_records_back_does_not_wait_for_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, bool, bool]] = []

    class Client(confluent_kafka.Producer):
        def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
            asked.append((in_queue, in_flight, blocking))
            super().purge(in_queue, in_flight, blocking)

    monkeypatch.setattr(confluent_kafka, "Producer", Client)
    producer = Producer("KafkaEmitter", NOBODY, lambda error: None, lambda: None)
    sending = producer.begin()
    producer.hand_in(sending, records(1))
    producer.purge()
    await asyncio.wait_for(sending.wait(), 30)
    assert [left.error for left in sending.left(records(1))] == [None]
    await producer.close()
    assert asked
    assert all(options == (True, True, False) for options in asked)


async def test_a_closed_producer_has_released_its_client_and_says_so() -> None:
    producer = Producer("KafkaEmitter", NOBODY, lambda error: None, lambda: None)
    sending = producer.begin()
    producer.hand_in(sending, records(2)[:1])
    await producer.close()
    await asyncio.wait_for(sending.wait(), 30)
    assert len(producer) == 0
    assert not producer._thread.is_alive()
    with pytest.raises(RetryableError, match="closed"):
        producer.hand_in(sending, records(2)[1:])
    await producer.close()
