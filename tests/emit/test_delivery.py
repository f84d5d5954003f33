"""An emitter is started, and started again; what ends a call without a verdict is no reason to give events up."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Code, Event, RejectedError
from polku.batch.receipt import Receipt, outcome_of
from polku.contracts import Collecting, Emitter
from polku.emit.collect import CollectingDelivery
from polku.emit.delivery import Delivery
from polku.emit.retry import Retry


class Database:
    """Start, and take batches, when there is nothing more to raise."""

    collecting = Collecting(2, 1_000_000, 60.0, 10, 1_000_000)

    def __init__(self) -> None:
        self.start_errors: list[Exception] = []
        self.emit_errors: list[Exception] = []
        self.starts = self.calls = 0
        self.ids: list[str] = []
        self.is_closed = False

    async def start(self) -> None:
        self.starts += 1
        if self.start_errors:
            raise self.start_errors.pop(0)

    async def emit(self, batch: Batch) -> None:
        self.calls += 1
        if self.emit_errors:
            raise self.emit_errors.pop(0)
        self.ids += batch.ids

    def group(self, event: Event) -> str:
        return ""

    def close(self) -> None:
        self.is_closed = True


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id) for event_id in ids])


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(params=["each batch", "collected"])
def delivery(request: pytest.FixtureRequest, database: Database) -> Delivery:
    if request.param == "collected":
        delivery: Delivery = CollectingDelivery("db", database, database)
    else:
        emitter: Emitter = database
        delivery = Delivery("db", emitter)
    delivery._pauses = Retry(first=0.0001, limit=0.0001)
    return delivery


async def push(delivery: Delivery, *ids: str) -> Receipt:
    return await outcome_of(await delivery.push(batch(*ids)))


async def test_at_the_start_of_a_pipeline_an_emitter_that_cannot_start_ends_it(
    delivery: Delivery, database: Database
) -> None:
    database.start_errors = [ConnectionError("the database is down")]
    with pytest.raises(ConnectionError, match="the database is down"):
        await delivery.start()
    await delivery.close()


async def test_in_a_new_life_it_is_started_until_it_works_and_its_batches_wait(
    delivery: Delivery, database: Database
) -> None:
    database.start_errors = [ConnectionError("the database is down")] * 20
    await delivery.start_again()
    assert str(delivery.start_error) == "the database is down"
    assert delivery.statistics().fault == "cannot start: ConnectionError: the database is down"
    sent = [asyncio.ensure_future(push(delivery, f"{n}-a", f"{n}-b")) for n in range(3)]
    async with asyncio.timeout(30):
        receipts = await asyncio.gather(*sent)
    assert [receipt.refused for receipt in receipts] == [(), (), ()]
    assert database.starts == 21
    assert database.ids == ["0-a", "0-b", "1-a", "1-b", "2-a", "2-b"]
    assert (delivery.start_error, delivery.statistics().fault) == (None, "")
    await delivery.close()


async def test_one_that_is_closed_while_it_cannot_start_ends_at_once(delivery: Delivery, database: Database) -> None:
    database.start_errors = [ConnectionError("down")] * 1_000_000
    delivery._pauses = Retry(first=3_600)
    await delivery.start_again()
    sent = asyncio.ensure_future(push(delivery, "a", "b"))
    await asyncio.sleep(0)
    sent.cancel()
    await asyncio.wait([sent])
    async with asyncio.timeout(30):
        await delivery.close()
    assert database.is_closed
    assert database.ids == []


async def test_one_that_is_released_while_it_cannot_start_is_not_called(delivery: Delivery, database: Database) -> None:
    database.start_errors = [ConnectionError("down")] * 1_000_000
    delivery._pauses = Retry(first=3_600)
    await delivery.start_again()
    sent = asyncio.ensure_future(push(delivery, "a", "b"))
    await asyncio.sleep(0)
    delivery.release()
    async with asyncio.timeout(30):
        receipt = await sent
    assert [(refusal.event_id, refusal.code) for refusal in receipt.refused] == [
        ("a", Code.UNAVAILABLE),
        ("b", Code.UNAVAILABLE),
    ]
    assert database.calls == 0
    await delivery.close()


async def test_a_call_that_ends_without_a_verdict_is_made_again(delivery: Delivery, database: Database) -> None:
    database.emit_errors = [MemoryError("no room"), OSError(24, "Too many open files")] * 10
    receipt = await push(delivery, "a", "b")
    assert receipt.refused == ()
    assert database.ids == ["a", "b"]
    assert database.calls == 21
    assert delivery.statistics().confirmed == 2
    assert delivery.statistics().fault == ""
    await delivery.close()


async def test_what_the_destination_rejects_is_given_up(delivery: Delivery, database: Database) -> None:
    database.emit_errors = [RejectedError("too old")]
    receipt = await push(delivery, "a", "b")
    assert [(refusal.event_id, refusal.message) for refusal in receipt.refused] == [("a", "too old"), ("b", "too old")]
    assert database.calls == 1
    await delivery.close()
