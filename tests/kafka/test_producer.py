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
    sending = Sending(count)
    sending.handed_in = count
    return sending


async def test_a_record_without_a_report_is_not_delivered() -> None:
    sending = handed_in(3)
    sending.report(0, None, None)
    three = records(3)
    assert sending.left(three) == [Left(three[1], None), Left(three[2], None)]
    assert sending.taken(three) == [three[0]]


async def test_reports_in_another_order_are_those_of_their_records() -> None:
    sending = handed_in(4)
    error = confluent_kafka.KafkaError(confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE)
    for number, fault in ((3, None), (1, error), (0, None)):
        sending.report(number, fault, None)
    four = records(4)
    assert sending.left(four) == [Left(four[1], error), Left(four[2], None)]


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
        sending = producer.begin(2)
        assert [producer.hand_in(sending, record) for record in two] == [True, True]
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
    sending = producer.begin(1)
    producer.hand_in(sending, *records(1))
    producer.purge()
    await asyncio.wait_for(sending.wait(), 30)
    assert [left.error for left in sending.left(records(1))] == [None]
    await producer.close()
    assert asked
    assert all(options == (True, True, False) for options in asked)


async def test_a_closed_producer_has_released_its_client_and_says_so() -> None:
    producer = Producer("KafkaEmitter", NOBODY, lambda error: None, lambda: None)
    sending = producer.begin(2)
    producer.hand_in(sending, records(2)[0])
    await producer.close()
    await asyncio.wait_for(sending.wait(), 30)
    assert len(producer) == 0
    assert not producer._thread.is_alive()
    with pytest.raises(RetryableError, match="closed"):
        producer.hand_in(sending, records(2)[1])
    await producer.close()
