"""The buffer's side of one emitter: what it has not confirmed yet, in order, and its share of the buffer.

Only an outlet moves past events, and only when they are confirmed, dead letters, or dropped by rule.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from polku.batch import Batch, join
from polku.buffer.entry import Claim, Entry
from polku.buffer.strategy import Overflow
from polku.codes import Code
from polku.errors import DrainingError
from polku.link import Link
from polku.receipt import Receipt, Refusal


class Share(NamedTuple):
    """What one outlet may hold: events, bytes, and the rule for what does not fit."""

    events: int
    bytes: int
    overflow: Overflow


class OutletStatistics(NamedTuple):
    """Count what an outlet has done with events; `lag` and `lag_bytes` wait or are under way now.

    `dropped` fell to the overflow rule, `dead` became dead letters.
    """

    confirmed: int
    dead: int
    dropped: int
    lag: int
    lag_bytes: int
    in_flight: int


Fetch = Callable[[int], Awaitable[Batch]]
Release = Callable[[Entry], None]
Bury = Callable[[str, Batch, tuple[Refusal, ...]], None]


class Outlet:
    """Feed one emitter from the buffer, at its own pace."""

    def __init__(self, name: str, link: Link, share: Share, *, fetch: Fetch, release: Release, bury: Bury) -> None:
        self.name = name
        self.share = share
        self._link = link
        self._fetch, self._release, self._bury = fetch, release, bury
        self._waiting: deque[Claim] = deque()
        self._lag = self._lag_bytes = self._in_flight = 0
        self._confirmed = self._dead = self._dropped = 0
        self._changed = asyncio.Event()
        self._moved: asyncio.Event = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        # At most a quarter of the share in one batch: with two under way, half of it can always be dropped.
        self._join_events = max(1, min(4096, share.events // 4))

    def fits(self, events: int, size: int) -> bool:
        """Say whether so much more is within the share. An empty outlet takes anything."""
        if self._lag == 0:
            return True
        return self._lag + events <= self.share.events and self._lag_bytes + size <= self.share.bytes

    @property
    def piece(self) -> int:
        """The number of events that one entry may have."""
        return self._join_events if self.share.overflow is Overflow.DROP_OLDEST else self.share.events

    @property
    def room(self) -> int:
        """The number of events that still fit into the share."""
        return max(0, self.share.events - self._lag) if self._lag_bytes < self.share.bytes else 0

    @property
    def lag(self) -> int:
        """The events that are not confirmed yet."""
        return self._lag

    async def wait_for_room(self, events: int, size: int) -> None:
        """Return when so much more fits."""
        while not self.fits(events, size):
            self._moved.clear()
            await self._moved.wait()

    def claim(self, entry: Entry) -> None:
        """Add an entry to what this outlet must deliver."""
        self._waiting.append(Claim(entry))
        self._lag += entry.count
        self._lag_bytes += entry.size
        self._changed.set()

    async def drop_oldest(self, events: int, size: int) -> int:
        """Drop waiting events, oldest first, until so much more fits; return how many were dropped.

        What is under way to the emitter is not dropped.
        """
        dropped = 0
        while self._waiting and not self.fits(events, size):
            claim = self._waiting[0]
            ids = (await self._fetch(claim.entry.position)).ids if claim.entry.done is not None else []
            if not self._waiting or self._waiting[0] is not claim:
                continue
            excess = max(self._lag + events - self.share.events, 1)
            if self._lag_bytes + size > self.share.bytes:
                excess = claim.count
            dropped += self._drop(claim, min(excess, claim.count), ids)
        self._dropped += dropped
        return dropped

    def count_dropped(self, events: int) -> None:
        """Count events that never came in because the share was full."""
        self._dropped += events

    async def run(self) -> None:
        """Deliver for ever; cancel to stop."""
        while True:
            await self._link.wait_room()
            while not self._waiting:
                self._changed.clear()
                await self._changed.wait()
            claims = self._next_claims()
            batch = await self._assemble(claims)
            answer = self._link.push_nowait(batch)
            delivery = asyncio.get_running_loop().create_task(self._deliver(claims, batch, answer))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)

    async def drain(self) -> None:
        """Return when nothing waits and nothing is under way."""
        while self._lag:
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        """Close the link to the emitter; what is not confirmed stays unconfirmed."""
        for delivery in list(self._deliveries):
            delivery.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        await self._link.close()

    def statistics(self) -> OutletStatistics:
        """Return a snapshot of the counters."""
        return OutletStatistics(self._confirmed, self._dead, self._dropped, self._lag, self._lag_bytes, self._in_flight)

    def _drop(self, claim: Claim, count: int, ids: list[str]) -> int:
        """Drop the first events of the claim that waits longest; `ids` where their sender waits for the delivery."""
        reason = f"emitter {self.name!r} lags by its whole share of the buffer; dropped, as it was the oldest"
        dropped = ids[claim.skip : claim.skip + count]
        claim.entry.refused.extend(Refusal(event_id, Code.UNDELIVERED, reason) for event_id in dropped)
        before = claim.size
        claim.skip += count
        self._account(-count, claim.size - before)
        if claim.count == 0:
            self._waiting.popleft()
            self._release(claim.entry)
        return count

    def _next_claims(self) -> list[Claim]:
        claims = [self._waiting.popleft()]
        events, size = claims[0].count, claims[0].size
        while self._waiting:
            events += self._waiting[0].count
            size += self._waiting[0].size
            if events > self._join_events or size > 512 * 1024:
                break
            claims.append(self._waiting.popleft())
        self._in_flight += sum(claim.count for claim in claims)
        return claims

    async def _assemble(self, claims: list[Claim]) -> Batch:
        batches = []
        for claim in claims:
            batch = await self._fetch(claim.entry.position)
            batches.append(batch.split(claim.skip)[1] if claim.skip else batch)
        batch = join(batches)
        return batch.unidentified()

    async def _deliver(self, claims: list[Claim], batch: Batch, answer: asyncio.Future[Receipt]) -> None:
        try:
            receipt = await answer
        except DrainingError:
            return  # the link was closed: what is not confirmed stays so
        except Exception as error:
            reason = f"emitter {self.name!r} failed: {type(error).__name__}: {error}"
            receipt = Receipt(tuple(Refusal(event_id, Code.UNDELIVERED, reason) for event_id in batch.ids))
        if receipt.refused:
            self._bury(self.name, batch, receipt.refused)
        refused = {refusal.event_id: refusal for refusal in receipt.refused}
        for claim in claims:
            if refused and claim.entry.done is not None:
                ids = (await self._fetch(claim.entry.position)).ids
                claim.entry.refused.extend(refused[event_id] for event_id in ids if event_id in refused)
            self._account(-claim.count, -claim.size)
            self._in_flight -= claim.count
            self._release(claim.entry)
        self._dead += len(refused)
        self._confirmed += len(batch) - len(refused)

    def _account(self, events: int, size: int) -> None:
        self._lag += events
        self._lag_bytes += size
        self._moved.set()
