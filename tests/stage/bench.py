"""A stage for tests, the actor after it, and steps that record what they are told."""

from __future__ import annotations

import asyncio

from polku import Batch, Code, Event, Refusal
from polku.batch.receipt import Counts, Receipt, outcome_of
from polku.contracts import Holder, Step
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer, Window
from polku.middleware.adapt import as_step
from polku.stage.stage import Stage
from tests.support.clock import FakeClock


class Next:
    """Be the next actor: answer each batch when the test says so, or at once."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.batches: list[Batch] = []
        self.answers: list[asyncio.Future[Receipt]] = []
        self.at_once = at_once

    async def push(self, batch: Batch) -> Receipt:
        self.batches.append(batch)
        self.answers.append(asyncio.get_running_loop().create_future())
        if self.at_once:
            self.answer(len(self.answers) - 1)
        return await self.answers[-1]

    def answer(self, position: int, *refused: str, counts: Counts | None = None) -> None:
        refusals = tuple(Refusal(i, Code.BUFFER_FULL, "full") for i in refused)
        self.answers[position].set_result(Receipt(refusals, counts or Counts(), 1, 10))

    @property
    def ids(self) -> list[list[str]]:
        return [batch.ids for batch in self.batches]


class Bench:
    def __init__(self, *components: object, at_once: bool = True, holds_behind: bool = False, window: int = 8) -> None:
        self.clock = FakeClock()
        self.next = Next(at_once=at_once)
        self.dead_letters = DeadLetters()
        self.link = Link("stage", LocalPeer(self.next), window=Window(batches=window, join_events=1))
        steps: list[Step | Holder] = [as_step(component, self.clock) for component in components]
        self.stage = Stage(steps, self.link, self.dead_letters, self.clock, holds_behind=holds_behind)

    def push(self, *ids: str) -> asyncio.Future[Receipt]:
        return asyncio.ensure_future(self._push(batch(*ids)))

    async def _push(self, batch: Batch) -> Receipt:
        answer = await self.stage.push(batch)
        return await outcome_of(answer)


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=i, event_type="t", source="s") for i in ids])


def refused(receipt: Receipt) -> list[tuple[str, Code]]:
    return [(refusal.event_id, refusal.code) for refusal in receipt.refused]


def places(receipt: Receipt) -> list[int]:
    return [refusal.position for refusal in receipt.refused]


def renamed(event: Event) -> Event:
    return Event(id=f"new-{event.id}", event_type="t", source="s")
