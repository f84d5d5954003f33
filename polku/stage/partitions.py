"""The way into a stage that is divided by a key: each partition gets the events of its own keys.

```text
                 ┌─ positions 0, 3 ─► partition 1 ─┐
 a batch ─ keys ─┤                                 ├─► what comes next, from each by itself
                 └─ positions 1, 2 ─► partition 2 ─┘
   ▲                     │ receipt of each share, by position
   └──── one receipt ◄───┘
```

The events of one key pass one partition, in their order. Events of different keys may overtake each other: each
partition hands on by itself, and one that is away holds up nothing but its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Counts, Fate, Receipt, Refusal
from polku.codes import Code
from polku.event.v1.event_pb2 import Event
from polku.link.link import Link
from polku.stage.key_space import KeySpace
from polku.text import said
from polku.usercode import as_exception, is_ours

_PATIENCE = 1.0  # seconds without room until a partition counts as away, and is not waited for


class _Share(NamedTuple):
    """Some events of a batch, by their positions in it, and the future of their receipt."""

    partition: str
    positions: Sequence[int]
    answer: asyncio.Future[Receipt]


class Partitions:
    """Divide each batch among the links to the partitions, which have names, by the `keys` of its events.

    A batch is answered `Accepted` first: `push` returns once all partitions that are there have room. How much
    may wait for one that is away is bounded by what the ingest may have open.
    """

    def __init__(self, links: Mapping[str, Link], keys: Callable[[Sequence[Event]], Sequence[Hashable]]) -> None:
        self._names = tuple(links)
        self._links = tuple(links.values())
        self._keys = keys
        self._space = KeySpace(len(links))
        self._own: dict[str, Counts] = {}  # the latest totals of each partition
        self._latest = Receipt()
        self._away: set[Link] = set()

    async def push(self, batch: Batch) -> Answer:
        """Hand the events on, and return `Accepted` once there is room for more."""
        outcome = asyncio.ensure_future(self._join(batch, self._send(batch)))
        outcome.add_done_callback(_seen)
        await self._wait_room()
        return Accepted(outcome)

    async def flush(self, everything: bool = True) -> None:
        """Have every partition release what it holds."""
        for link in self._links:
            link.flush_nowait(everything=everything)

    async def close(self) -> None:
        """Close the links to the partitions."""
        for link in self._links:
            await link.close()

    def _send(self, batch: Batch) -> list[_Share]:
        positions: list[list[int]] = [[] for _ in self._links]
        add = [own.append for own in positions]
        for position, part in enumerate(self._space.partitions_of(self._keys(batch.events))):
            add[part](position)
        parts = [part for part, own in enumerate(positions) if own]
        shares = []
        for part, share in zip(parts, batch.divided([positions[part] for part in parts]), strict=True):
            name, own = self._names[part], positions[part]
            if batch.identity is not None:
                share.identity = batch.identity.share(name, _digest(own))
            shares.append(_Share(name, own, self._links[part].push_nowait(share)))
        return shares

    async def _join(self, batch: Batch, shares: Sequence[_Share]) -> Receipt:
        """Return one receipt for all shares; those that none is known of are refused, to be sent again."""
        refused: list[Refusal] = []
        fates: list[Fate] = []
        failed: list[Exception] = []
        for name, positions, answer in shares:
            try:
                receipt = await answer
            except BaseException as error:
                if is_ours(error):
                    raise
                failed.append(as_exception(error))
                ids = batch.ids
                refused += [
                    Refusal(ids[at], Code.UNAVAILABLE, f"{name}: {said(error)}", position=at) for at in positions
                ]
                continue
            self._own[name] = receipt.own
            self._latest = receipt._replace(refused=(), fates=(), own=Counts())
            refused += [refusal._replace(position=positions[refusal.position]) for refusal in receipt.refused]
            fates += [(positions[at], what, number) for at, what, number in receipt.fates]
        if failed and len(failed) == len(shares):
            raise failed[0]
        counts = reduce(Counts.plus, self._own.values(), self._latest.counts)
        ordered = tuple(sorted(refused, key=lambda refusal: refusal.position))
        return self._latest._replace(refused=ordered, counts=counts, fates=tuple(sorted(fates)))

    async def _wait_room(self) -> None:
        """Return when every partition has room that is not away: then at least one has."""
        self._away = {link for link in self._away if not link.has_room}
        full = [link for link in self._links if not link.has_room and link not in self._away]
        if not full and len(self._away) < len(self._links):
            return
        waits = {asyncio.ensure_future(link.wait_room()): link for link in full or self._links}
        try:
            if full:
                _, late = await asyncio.wait(waits, timeout=_PATIENCE)
                self._away |= {waits[wait] for wait in late}
            else:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _digest(positions: Sequence[int]) -> str:
    return hashlib.blake2b(array("I", positions).tobytes(), digest_size=8).hexdigest()


def _seen(outcome: asyncio.Future[Receipt]) -> None:
    if not outcome.cancelled():
        outcome.exception()
