"""What was refused for several reasons is told the one that is worth sending again, wherever answers meet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polku import Batch, Code, Event, Refusal, Transform
from polku.batch.receipt import Answer, Receipt, outcome_of
from polku.buffer.enqueuing import _each_once
from polku.contracts import Flush, Part
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer
from polku.middleware.adapt import as_step
from polku.stage.replicas import Replicas, ReplyLink
from polku.stage.stage import Stage
from tests.support.clock import FakeClock

CODES = [(Code.UNDELIVERED, Code.BUFFER_FULL), (Code.BUFFER_FULL, Code.UNDELIVERED)]


class Next:
    """Refuse the events of each batch for one reason after the other."""

    def __init__(self, codes: Sequence[Code]) -> None:
        self.codes = codes

    async def push(self, batch: Batch) -> Answer:
        refused = zip(batch.ids, self.codes, strict=True)
        return Receipt(tuple(Refusal(i, code, code.lower(), position=at) for at, (i, code) in enumerate(refused)))


class Pair:
    """Hold two events back, and let them go together as two others."""

    name = "pair"
    drop_reason = "aggregated"
    held = (0, 0)
    limit = (10, 10)

    def hold(self, events: list[Event], batch: int) -> Sequence[Flush]:
        return [Flush([Event(id="x"), Event(id="y")], [Part(batch, at) for at in range(len(events))])]

    def flush(self, *, everything: bool = False) -> Sequence[Flush]:
        return []

    def due(self) -> float | None:
        return None


def codes_of(receipt: Receipt) -> list[Code]:
    return [refusal.code for refusal in receipt.refused]


@pytest.mark.parametrize("codes", CODES)
async def test_of_an_event_that_a_replica_cut(codes: tuple[Code, Code]) -> None:
    clock = FakeClock()
    cut = as_step(Transform(lambda events: [Event(id=i) for i in ("a-1", "a-2")], batch=True), clock)
    stage = Stage([cut], ReplyLink(), DeadLetters(), clock)
    replicas = Replicas([Link("one", LocalPeer(stage))], Link("out", LocalPeer(Next(codes))))
    receipt = await outcome_of(await replicas.push(Batch.from_events([Event(id="a")])))
    assert codes_of(receipt) == [Code.BUFFER_FULL]
    await replicas.close()


@pytest.mark.parametrize("codes", CODES)
async def test_of_events_that_a_holder_let_go_as_several(codes: tuple[Code, Code]) -> None:
    stage = Stage([Pair()], Link("out", LocalPeer(Next(codes))), DeadLetters(), FakeClock())
    receipt = await outcome_of(await stage.push(Batch.from_events([Event(id="a"), Event(id="b")])))
    await asyncio.sleep(0)
    assert codes_of(receipt) == [Code.BUFFER_FULL, Code.BUFFER_FULL]
    await stage.close()


@pytest.mark.parametrize("codes", CODES)
def test_of_an_event_that_two_outlets_refused(codes: tuple[Code, Code]) -> None:
    refused = [Refusal("a", code, code.lower(), position=0) for code in codes]
    assert [one.code for one in _each_once(refused)] == [Code.BUFFER_FULL]
