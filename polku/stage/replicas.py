"""A stage that works on several batches at once: each goes to one of its replicas, and they go on in their order.

Replicas answer a batch with what they made of it, so the order is restored here, by who sent the batches, and no
sender or receiver knows of them. A replica that dies has its batches sent again, as over any link.

Replicas come and go while it works. What has not been given to one waits here, so that one that comes has work at once;
one that goes gets nothing more, and ends what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from polku.aio.eager import start_eagerly
from polku.aio.sequencer import Sequencer, Ticket
from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Counts, Output, Receipt, weightier
from polku.link.link import Link

_AT_ONCE = 2  # batches that a replica has: one that it works on, and another at hand


class ReplyLink:
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


class _Worker:
    """One replica: the link to it, how many batches it has, and what it has counted."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.open = 0
        self.counts = Counts()


class Replicas:
    """Give each batch to the replica that has least to do; hand on what they made of them, in order.

    Those that are `overlapping` work on several batches each, and say by the room on their links how many.
    """

    def __init__(
        self, links: Sequence[Link], link: Link, *, holds_behind: bool = False, overlapping: bool = False
    ) -> None:
        self._overlapping = overlapping
        self._workers = [_Worker(each) for each in links]
        self._leaving: list[_Worker] = []
        self._room = asyncio.Semaphore(_AT_ONCE * len(links))
        self._lacking = 0  # batches more than there may be with replicas, as some are gone
        self._link = link
        self._holds_behind = holds_behind
        self._latest = Receipt()
        self._gone_counts = Counts()
        self._sequencer = Sequencer()

    @property
    def links(self) -> tuple[Link, ...]:
        """The links to the replicas, without those that go."""
        return tuple(worker.link for worker in self._workers)

    async def exchange(self, links: Sequence[Link]) -> int:
        """Give batches to these replicas alone from now on; return how many the others still have, which they end.

        Called again, it returns how many that are by then; the links of those that have none are closed.
        """
        before = self._workers
        known = {worker.link: worker for worker in (*self._leaving, *before)}
        self._workers = [known.pop(link) if link in known else _Worker(link) for link in links]
        self._leaving = list(known.values())
        self._add_room(_room(self._workers) - _room(before))
        for worker in [worker for worker in self._leaving if not worker.open]:
            self._leaving.remove(worker)
            self._gone_counts = self._gone_counts.plus(worker.counts)
            await worker.link.close()
        return sum(worker.open for worker in self._leaving)

    async def push(self, batch: Batch) -> Answer:
        """Return the receipt, or `Accepted`, once there is room, where something behind holds events back."""
        ticket = self._sequencer.take()
        if self._overlapping:
            passing = start_eagerly(self._pass(batch, ticket))
            await self._wait_room()
            return Accepted(passing)
        outcome = asyncio.ensure_future(self._settle(*await self._advance(batch, ticket)))
        if self._holds_behind:
            await self._link.wait_room()
            return Accepted(outcome)
        return await outcome

    async def flush(self, everything: bool = True) -> None:
        """Do nothing: replicas keep events back for no longer than it takes to fill a call."""

    async def close(self) -> None:
        """Close the links to the replicas and the one to what comes next."""
        for worker in (*self._workers, *self._leaving):
            await worker.link.close()
        await self._link.close()

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
        if not any(link.has_room for link in self.links):
            waits = [asyncio.ensure_future(link.wait_room()) for link in self.links]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        await self._link.wait_room()

    async def _work(self, batch: Batch) -> Receipt:
        if not self._overlapping:
            await self._room.acquire()
        worker = min(self._workers, key=lambda worker: worker.open)
        worker.open += 1
        try:
            receipt = await worker.link.push(batch)
        finally:
            worker.open -= 1
            if not (self._overlapping or worker in self._leaving):
                self._add_room(1)
        worker.counts = receipt.counts
        return receipt

    def _add_room(self, batches: int) -> None:
        """Let replicas have this number of batches more, or fewer where it is negative."""
        self._lacking -= batches
        while self._lacking < 0:
            self._lacking += 1
            self._room.release()

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
        counts = receipt.counts.plus(self._gone_counts)
        for worker in (*self._workers, *self._leaving):
            counts = counts.plus(worker.counts)
        refusals = tuple(refused[at] for at in sorted(refused))
        return receipt._replace(refused=refusals, counts=counts, fates=tuple(sorted(fates)) if fates else ())


def _room(workers: Sequence[_Worker]) -> int:
    return sum(_AT_ONCE - worker.open for worker in workers)
