"""What middleware holds and knows moves to the middleware of the next plan."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku import Aggregator, Deduplicator, Hub, RateLimiter, Throttle
from polku.buffer.buffer import Buffer
from polku.event.v1.event_pb2 import Event
from tests.runtime.changes import Out, hub, running, tagging, until


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        (Deduplicator(ttl=100), Deduplicator(ttl=200), ["a", "b", "c"]),
        (Deduplicator(ttl=100), Deduplicator(ttl=100, per="tenant"), ["a", "b", "a", "c"]),
        (RateLimiter(0.001, 2), RateLimiter(0.001, 5), ["a", "b"]),
        (Throttle(0.001, 2), Throttle(0.001, 5), ["a", "b"]),
    ],
)
async def test_state_moves_to_middleware_of_the_same_form(before: object, after: object, passed: list[str]) -> None:
    arrived: list[str] = []

    def chain(step: object) -> Hub:
        return Hub(runtime="inline").middleware(step, name="memory").emitter(Out(arrived), name="out")

    async with running(chain(before)) as pipeline:
        await pipeline.send("a", "b")
        await pipeline.update(chain(after))
        await pipeline.send("a")
        await pipeline.send("c")
        await pipeline.delivered()
    assert arrived == passed


async def test_a_duplicate_is_answered_when_the_first_is_also_by_the_next_deduplicator() -> None:
    arrived: list[str] = []
    out = Out(arrived, is_open=False)
    async with running(hub(Deduplicator(ttl=100), out=out).ack("delivered")) as pipeline:
        first = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: out.calls)
        await pipeline.update(hub(Deduplicator(ttl=200), out=out).ack("delivered"))
        second = asyncio.ensure_future(pipeline.send("a"))
        done, _ = await asyncio.wait([first, second], timeout=0.05)
        assert not done
        out.opened.set()
        assert [list(ack.event_ids) for ack in await asyncio.gather(first, second)] == [["a"], ["a"]]
        third = await pipeline.send("a")
        assert list(third.event_ids) == ["a"]
    assert arrived == ["a"]


async def test_what_is_answered_while_state_moves_is_known_to_what_takes_it_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrived: list[str] = []
    out = Out(arrived, is_open=False)
    async with running(hub(Deduplicator(ttl=100), out=out).ack("delivered")) as pipeline:
        first = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: out.calls)
        rearrange = Buffer.rearrange

        async def rearranged(self: Buffer, *arguments: Any, **options: Any) -> None:
            out.opened.set()
            await first
            await rearrange(self, *arguments, **options)

        monkeypatch.setattr(Buffer, "rearrange", rearranged)
        await pipeline.update(hub(Deduplicator(ttl=200), out=out).ack("delivered"))
        again = await asyncio.wait_for(pipeline.send("a", "b"), 30)
        assert list(again.event_ids) == ["a", "b"]
    assert arrived == ["a", "b"]


@pytest.mark.parametrize(("size", "before"), [(4, 0), (2, 1)])
async def test_what_an_aggregator_holds_moves_with_the_answers_that_wait_for_it(size: int, before: int) -> None:
    arrived: list[str] = []
    async with running(hub(Aggregator(10, 60.0), out=Out(arrived))) as pipeline:
        waiting = [asyncio.ensure_future(pipeline.send(event_id)) for event_id in "ab"]
        await until(lambda: pipeline.held == 2)
        changed = await pipeline.update(hub(Aggregator(size, 60.0), out=Out(arrived)))
        assert "keeps its state" in str(changed.difference)
        await asyncio.sleep(0)
        await pipeline.delivered()
        assert len(arrived) == before
        waiting += [asyncio.ensure_future(pipeline.send(event_id)) for event_id in "cd"]
        assert [list(ack.event_ids) for ack in await asyncio.gather(*waiting)] == [["a"], ["b"], ["c"], ["d"]]
        await pipeline.delivered()
    assert len(arrived) == 4 // size


async def test_what_an_aggregator_holds_that_goes_is_let_go() -> None:
    arrived: list[str] = []
    async with running(hub(Aggregator(10, 60.0), tagging("!"), out=Out(arrived))) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: pipeline.held)
        await pipeline.update(hub(tagging("?"), out=Out(arrived)))
        assert list((await waiting).event_ids) == ["a"]
        await pipeline.send("b")
        await pipeline.delivered()
    assert [event_id[-1] for event_id in arrived] == ["!", "?"]


async def test_what_an_aggregator_lets_go_that_goes_moves_with_the_state_of_the_one_behind_it() -> None:
    arrived: list[str] = []

    def all_together(event: Event) -> int:
        return 0

    first, second = Aggregator(10, 60.0), Aggregator(2, 60.0, key=all_together)
    chain = Hub(runtime="inline").middleware(first, name="first").middleware(second, name="second")
    async with running(chain.emitter(Out(arrived), name="out")) as pipeline:
        waiting = asyncio.ensure_future(pipeline.send("a"))
        await until(lambda: pipeline.held == 1)
        other = (
            Hub(runtime="inline")
            .middleware(Aggregator(2, 50.0, key=all_together), name="second")
            .emitter(Out(arrived), name="out")
        )
        await pipeline.update(other)
        assert pipeline.held == 1
        async with asyncio.timeout(30):
            acks = await asyncio.gather(waiting, pipeline.send("b"))
        assert [list(ack.event_ids) for ack in acks] == [["a"], ["b"]]
        await pipeline.delivered()
    assert len(arrived) == 1
