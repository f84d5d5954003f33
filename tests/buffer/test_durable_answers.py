"""What a durable buffer has answered to a sender is the same after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Code, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt
from polku.buffer.strategy import Overflow
from polku.errors import DrainingError
from tests.buffer.durable import batch_of, durable, shut, soon
from tests.buffer.parts import Destination, numbered


async def test_a_batch_that_is_sent_again_after_a_restart_is_answered_and_not_applied_twice(path: Path) -> None:
    async with durable(path, {"a": shut()}) as first:
        for seq, i in enumerate(numbered(0, 5), 1):
            await first.push(batch_of(i, seq=seq))
    a = Destination()
    async with durable(path, {"a": a}) as second:
        for seq, i in enumerate(numbered(0, 8), 1):
            assert (await second.push(batch_of(i, seq=seq))).refused == ()
        await second.buffer.drain()
        assert second.buffer.statistics().duplicates == 5
    assert a.ids == numbered(0, 8)


async def test_batches_of_a_sender_that_has_died_several_times_are_not_applied_twice_after_a_restart(
    path: Path,
) -> None:
    def lives() -> Iterator[Batch]:
        """Make a batch of each life: of three deaths, and of another epoch within each life."""
        for epoch, i in enumerate(numbered(0, 8), 1):
            batch = batch_of(i)
            batch.identity = Identity("link", epoch, 1)
            yield batch

    a = Destination()
    async with durable(path, {"a": a}) as first:
        for batch in lives():
            await first.push(batch)
        await first.buffer.drain()
    async with durable(path, {"a": a}) as second:
        for batch in lives():  # a stage in between has kept all of them
            await second.push(batch)
        await second.buffer.drain()
    assert a.ids == numbered(0, 8)


async def test_a_batch_of_several_routes_is_answered_after_a_restart_when_all_of_it_is_delivered(path: Path) -> None:
    def mixed() -> object:
        batch = batch_of("1", "2", "3", seq=1)
        for event, to in zip(batch.events, ("a", "b", "a"), strict=True):
            event.route_to.append(to)
        batch.routes = None
        return batch.replace(list(batch.events))

    async with durable(path, {"a": shut(), "b": shut()}, await_delivery=True) as first:
        push = asyncio.ensure_future(first.push(mixed()))  # type: ignore[arg-type]
        await soon(lambda: first.log.commits > 0)
        push.cancel()
    a, b = Destination(), shut()
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as second:
        push = asyncio.ensure_future(second.push(mixed()))  # type: ignore[arg-type]
        await soon(lambda: a.ids == ["1", "3"])
        await asyncio.sleep(0.05)
        assert not push.done()
        b.gate.set()
        assert (await push).refused == ()
    assert (a.ids, b.ids) == (["1", "3"], ["2"])


async def test_at_the_delivered_level_refusals_survive_a_restart(path: Path) -> None:
    """One outlet refuses and one has not answered when the process ends; then the sender asks again."""
    a, b = Destination(refuses={"2"}), shut()
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as first:
        push = asyncio.ensure_future(first.push(batch_of("1", "2", "3", seq=1)))
        await soon(lambda: a.ids == ["1", "2", "3"])
        await soon(lambda: first.log.commits == 2)  # of the batch, and of what became of it at the first outlet
        assert not push.done()
        push.cancel()
    a, b = Destination(), Destination(refuses={"3"})
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as second:
        receipt = await second.push(batch_of("1", "2", "3", seq=1))
        assert sorted(refusal.event_id for refusal in receipt.refused) == ["2", "3"]
    async with durable(path, {"a": a, "b": b}, await_delivery=True) as third:
        receipt = await third.push(batch_of("1", "2", "3", seq=1))
        assert sorted(refusal.event_id for refusal in receipt.refused) == ["2", "3"]
        assert {refusal.code for refusal in receipt.refused} == {Code.UNDELIVERED}
    assert (a.ids, b.ids) == ([], ["1", "2", "3"])


async def test_best_effort_emitters_hold_no_sender_up_and_their_refusals_are_not_its_business(path: Path) -> None:
    a, metrics, slow = Destination(), Destination(refuses={"1"}), shut()
    links = {"metrics": metrics, "a": a, "slow": slow}
    async with durable(path, links, best_effort={"metrics", "slow"}, await_delivery=True) as bench:
        assert (await bench.push(batch_of("1", seq=1))).refused == ()
        assert a.ids == ["1"]


async def test_drop_newest_tells_the_sender_also_when_it_asks_again_after_a_restart(path: Path) -> None:
    strategy = BufferStrategy.durable(path, capacity=3)
    rules = {"a": Overflow.DROP_NEWEST}
    async with durable(path, {"a": shut()}, strategy=strategy, overflow=rules) as first:
        told = await first.push(batch_of(*numbered(0, 5), seq=1))
        assert [refusal.event_id for refusal in told.refused] == numbered(3, 5)
    a = Destination()
    async with durable(path, {"a": a}, strategy=strategy, overflow=rules) as second:
        again = await second.push(batch_of(*numbered(0, 5), seq=1))
        await second.buffer.drain()
    assert again.refused == told.refused
    assert a.ids == numbered(0, 3)


async def test_a_receipt_names_the_fullest_outlet(path: Path) -> None:
    async with durable(path, {"a": shut(), "b": Destination()}) as bench:
        receipt = await bench.push(batch_of("1", "2"))
        assert isinstance(receipt, Receipt)
        assert receipt.buffer_size == 2


async def in_part(path: Path, *, rule: Overflow = Overflow.BLOCK, await_delivery: bool = False) -> None:
    """Have a batch of 30 events die with the buffer after 20 of them were held for `a`, and all for `b`."""
    strategy = BufferStrategy.durable(path, capacity=20)
    a, b = Destination(is_open=False), Destination()
    rules = {"b": rule}
    async with durable(
        path, {"a": a, "b": b}, strategy=strategy, overflow=rules, await_delivery=await_delivery
    ) as bench:
        pushing = asyncio.ensure_future(bench.push(batch_of(*numbered(0, 30), seq=1)))
        await soon(lambda: len(b.ids) == 30)
        assert not pushing.done()
    with contextlib.suppress(DrainingError):
        await pushing


@pytest.mark.parametrize("await_delivery", [False, True])
async def test_what_was_held_in_part_when_the_buffer_died_is_completed_and_nothing_applied_twice(
    path: Path, await_delivery: bool
) -> None:
    await in_part(path, await_delivery=await_delivery)
    a, b = Destination(refuses=["0003", "0025"]), Destination()
    async with durable(path, {"a": a, "b": b}, await_delivery=await_delivery) as bench:
        receipt = await bench.push(batch_of(*numbered(0, 30), seq=1))
        again = await bench.push(batch_of(*numbered(0, 30), seq=1))
        await bench.buffer.drain()
    assert sorted(a.ids) == numbered(0, 30)
    assert b.ids == []
    expected = [3, 25] if await_delivery else []
    assert [refusal.position for refusal in receipt.refused] == expected
    assert [refusal.position for refusal in again.refused] == expected


async def test_refusals_of_pieces_that_lie_apart_name_the_right_events_after_a_restart(path: Path) -> None:
    ids = numbered(0, 6)
    batch = Batch.from_events([Event(id=i, route_to=["a" if n % 2 else "b"]) for n, i in enumerate(ids)])
    batch.identity = Identity("link", 7, 1)
    copy = Batch.from_wire(batch.header, batch.payload)
    shut = {name: Destination(is_open=False) for name in "ab"}
    async with durable(path, shut, await_delivery=True) as bench:
        await bench.buffer.push(batch)
        await soon(lambda: bench.log.commits > 0)
    refusing = {"a": Destination(refuses=["0003"]), "b": Destination(refuses=["0004"])}
    async with durable(path, refusing, await_delivery=True) as bench:
        receipt = await bench.push(copy)
    assert [(refusal.position, refusal.event_id) for refusal in receipt.refused] == [(3, "0003"), (4, "0004")]


async def test_what_comes_behind_the_close_of_a_journal_is_refused_as_by_a_pipeline_that_stops(path: Path) -> None:
    async with durable(path, {"a": shut()}) as bench:
        await bench.buffer.close()
        receipt = await bench.push(batch_of("late", seq=1))
    assert [(refusal.event_id, refusal.code) for refusal in receipt.refused] == [("late", Code.DRAINING)]
    assert "was closed; send again later" in receipt.refused[0].message
