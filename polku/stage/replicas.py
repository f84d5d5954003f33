"""A stage that works on several batches at once: each goes to one of its replicas, and they go on in their order.

Replicas answer a batch with what they made of it, so the order is restored here, by who sent the batches, and no
sender or receiver knows of them. A replica that dies has its batches sent again, as over any link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from polku.aio.eager import start_eagerly
from polku.aio.sequencer import Sequencer, Ticket
from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Counts, Output, Receipt, weightier
from polku.link.link import Link


class Reply:
    """Be the link of a replica's stage: what goes on goes into the receipt."""

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Answer with the batch."""
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        answer.set_result(Receipt(output=(Output(batch),)))
        return answer

    async def wait_room(self) -> None:
        """Return: there is always room."""

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class Replicas:
    """Give each batch to the replica that has least to do; hand on what they made of them, in order.

    Those that are `overlapping` work on several batches each, and say by the room on their links how many.
    """

    def __init__(
        self, links: Sequence[Link], link: Link, *, two_steps: bool = False, overlapping: bool = False
    ) -> None:
        self._overlapping = overlapping
        self._links = tuple(links)
        self._link = link
        self._two_steps = two_steps
        self._latest = Receipt()
        self._under_way = [0] * len(self._links)
        self._counts = [Counts()] * len(self._links)
        self._sequencer = Sequencer()

    async def push(self, batch: Batch) -> Answer:
        """Return the receipt, or `Accepted`, once there is room, where something behind holds events back."""
        ticket = self._sequencer.take()
        if self._overlapping:
            passing = start_eagerly(self._pass(batch, ticket))
            await self._wait_room()
            return Accepted(passing)
        outcome = asyncio.ensure_future(self._settle(*await self._advance(batch, ticket)))
        if self._two_steps:
            await self._link.wait_room()
            return Accepted(outcome)
        return await outcome

    async def flush(self, everything: bool = True) -> None:
        """Do nothing: replicas keep events back for no longer than it takes to fill a call."""

    async def close(self) -> None:
        """Close the links to the replicas and the one to what comes next."""
        for link in (*self._links, self._link):
            await link.close()

    async def _advance(self, batch: Batch, ticket: Ticket) -> tuple[Receipt, list[Awaitable[Receipt]]]:
        """Have a batch worked on, and hand on what was made of it when its turn comes."""
        try:
            work = await self._work(batch)
            await ticket.wait()
            return work, [self._link.push_nowait(out.batch) for out in work.output]
        finally:
            ticket.done()

    async def _pass(self, batch: Batch, ticket: Ticket) -> Receipt:
        return await self._settle(*await self._advance(batch, ticket))

    async def _wait_room(self) -> None:
        """Return when a replica has room, and what comes next has."""
        if not any(link.has_room for link in self._links):
            waits = [asyncio.ensure_future(link.wait_room()) for link in self._links]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        await self._link.wait_room()

    async def _work(self, batch: Batch) -> Receipt:
        number = min(range(len(self._links)), key=self._under_way.__getitem__)
        self._under_way[number] += 1
        try:
            receipt = await self._links[number].push(batch)
        finally:
            self._under_way[number] -= 1
        self._counts[number] = receipt.counts
        return receipt

    async def _settle(self, work: Receipt, waits: Sequence[Awaitable[Receipt]]) -> Receipt:
        refused = {refusal.position: refusal for refusal in work.refused}
        fates = list(work.fates)
        receipt = self._latest
        for out, wait in zip(work.output, waits, strict=True):
            receipt = await wait
            for refusal in receipt.refused:
                for position in out.inputs(refusal.position):
                    refused[position] = weightier(refused.get(position), refusal._replace(position=position))
            fates += [(out.owner(position), what, number) for position, what, number in receipt.fates]
        self._latest = receipt._replace(refused=(), fates=())
        counts = receipt.counts
        for own in self._counts:
            counts = counts.plus(own)
        refusals = tuple(refused[at] for at in sorted(refused))
        return receipt._replace(refused=refusals, counts=counts, fates=tuple(sorted(fates)) if fates else ())
