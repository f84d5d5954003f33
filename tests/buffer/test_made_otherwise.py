"""A step makes something else of a batch that comes again: answers about the first content are not about the second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Sequence
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Code, Event, Filter, Transform
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt, outcome_of
from polku.buffer.buffer import Buffer
from polku.dead_letters import DeadLetters
from polku.errors import DrainingError
from polku.link.link import Link, LocalPeer, Window
from polku.middleware.adapt import as_step
from polku.stage.stage import Stage
from tests.buffer.durable import batch_of, durable, soon
from tests.buffer.parts import Bench, Destination, numbered
from tests.support.clock import FakeClock


async def in_a_life(buffer: Buffer, batch: Batch, *components: object) -> Receipt:
    """Push a copy of a batch through a stage that has just begun to live."""
    link = Link("stage", LocalPeer(buffer), window=Window(join_events=0))
    clock = FakeClock()
    stage = Stage([as_step(component, clock) for component in components], link, DeadLetters(), clock)
    receipt = await outcome_of(await stage.push(Batch.from_wire(batch.header, batch.payload)))
    await stage.close()
    return receipt


def only(ids: Collection[str]) -> Filter:
    return Filter(lambda event: event.id in ids)


def to(**names: str) -> Transform:
    def route(event: Event) -> None:
        event.route_to[:] = [names[event.id]]

    return Transform(route)


@pytest.mark.parametrize("second", ["13", "23", "123"])
async def test_a_refusal_names_its_own_event_whatever_was_made_of_the_batch_before(second: str) -> None:
    a = Destination(refuses={"2"})
    bench = Bench(BufferStrategy.ring(10), {"a": a}, await_delivery=True)
    batch = batch_of("1", "2", "3", seq=1)
    first = await in_a_life(bench.buffer, batch, only("12"))
    assert [(r.event_id, r.position, r.code) for r in first.refused] == [("2", 1, Code.UNDELIVERED)]
    again = await in_a_life(bench.buffer, batch, only(second))
    assert [r.position for r in again.refused] == ([1] if "2" in second else [])
    assert set(second) <= set(a.ids)


async def test_nothing_is_acknowledged_that_nobody_has_also_over_a_restart_of_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    batch = batch_of("1", "2", seq=1)
    a = Destination()
    for kept in "12":
        async with durable(path, {"a": a}) as bench:
            assert (await in_a_life(bench.buffer, batch, only(kept))).refused == ()
            await bench.buffer.drain()
    assert a.ids == ["1", "2"]


@pytest.mark.parametrize(
    "steps", [(), (only("13"),), (only("123"), only("3")), (to(**{"1": "a", "2": "b", "3": "a"}),)]
)
async def test_what_is_made_alike_twice_is_held_once(tmp_path: Path, steps: Sequence[object]) -> None:
    path = tmp_path / "journal.db"
    batch = batch_of("1", "2", "3", seq=1)
    a, b = Destination(), Destination()
    for _ in range(2):
        async with durable(path, {"a": a, "b": b}) as bench:
            for _ in range(2):
                await in_a_life(bench.buffer, batch, *steps)
            await bench.buffer.drain()
    arrived = a.ids + b.ids
    assert arrived
    assert sorted(a.ids) == sorted(set(a.ids))
    assert sorted(b.ids) == sorted(set(b.ids))


async def test_what_goes_elsewhere_the_second_time_comes_there() -> None:
    a, b = Destination(), Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a, "b": b}, await_delivery=True)
    batch = batch_of("1", "2", seq=1)
    for routes in ({"1": "a", "2": "a"}, {"1": "b", "2": "b"}, {"1": "a", "2": "b"}, {"1": "b", "2": "b"}):
        await in_a_life(bench.buffer, batch, to(**routes))
    assert (a.ids, b.ids) == (["1", "2", "1"], ["1", "2", "2"])


async def test_what_was_held_in_part_is_completed_only_if_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    batch = batch_of(*numbered(0, 30), seq=1)
    a = Destination(is_open=False)
    strategy = BufferStrategy.durable(path, capacity=10)
    async with durable(path, {"a": a}, strategy=strategy) as bench:
        pushing = asyncio.ensure_future(in_a_life(bench.buffer, batch, only(numbered(0, 20))))
        await soon(lambda: bench.log.commits > 0)
        assert not pushing.done()
    with contextlib.suppress(DrainingError):
        await pushing
    a = Destination()
    async with durable(path, {"a": a}) as bench:
        assert (await in_a_life(bench.buffer, batch, only(numbered(5, 30)))).refused == ()
        await bench.buffer.drain()
        assert set(numbered(5, 30)) <= set(a.ids)
        assert (await in_a_life(bench.buffer, batch, only(numbered(0, 20)))).refused == ()
        await bench.buffer.drain()
    assert sorted(a.ids) == sorted(numbered(0, 20) + numbered(5, 30))


async def test_what_is_made_of_a_part_is_not_answered_as_what_was_made_of_the_whole() -> None:
    a = Destination()
    bench = Bench(BufferStrategy.ring(10), {"a": a})
    batch = batch_of("1", "2", "3", "4", seq=1)
    await in_a_life(bench.buffer, batch, only("13"))
    part = batch_of("3", "4")
    part.identity = Identity("link", 7, 1).piece(2, 2)
    await in_a_life(bench.buffer, part, only("4"))
    await in_a_life(bench.buffer, part, only("34"))
    await bench.buffer.drain()
    assert a.ids == ["1", "3", "4", "3", "4"]


async def test_a_part_of_what_was_answered_hears_of_the_events_at_its_places_and_of_no_other_of_their_ids() -> None:
    bench = Bench(BufferStrategy.ring(3, overflow="drop_newest"), {"a": Destination()}, running=False)
    identity = Identity("link", 1, 1).made("ab")
    whole = batch_of("x", "y", "z", "x", "y")
    whole.identity = identity
    assert [refusal.position for refusal in (await bench.push(whole)).refused] == [3, 4]
    answers: list[Awaitable[Receipt]] = []
    for start, ids in ((0, "xy"), (2, "zx"), (3, "xy")):
        part = batch_of(*ids)
        part.identity = identity.piece(start, 2)
        answers.append(bench.push(part))
    assert [[r.position for r in answer.refused] for answer in await asyncio.gather(*answers)] == [[], [1], [0, 1]]
    assert bench.buffer.statistics().duplicates == 3
