"""The way out of a stage that several lanes share: each batch goes on in the lane that it came from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.errors import UnavailableError
from polku.link.link import Link


class Fork:
    """Choose among one link for each lane, by the batch's origin.

    The origins of a lane's batches begin with `prefix` and its number (`polku/lane-2/…`); `open_link` makes its link
    when it is heard from. What was made anew of several batches (an aggregate) has no origin: its first event's source
    chooses among the lanes that were heard from, so that those of one source keep their order. One that is `told` which
    lanes to serve lets nothing in before that: processes of a lost node may still send, until they notice.
    """

    def __init__(self, prefix: str, open_link: Callable[[int], Link], *, told: bool = False) -> None:
        self._prefix = prefix
        self._open_link = open_link
        self._links: dict[int, Link] = {}
        self._served: frozenset[int] | None = None  # all, until somebody says which
        self._leaving: frozenset[int] = frozenset()
        self._told = asyncio.Event()
        if not told:
            self._told.set()
        self._closed = False

    def serve(self, lanes: frozenset[int], leaving: frozenset[int] = frozenset()) -> bool:
        """Serve these lanes alone: the others are lost. Return whether something waits for one of those.

        Lanes that are `leaving` get what came from them, and nothing else.
        """
        self._served, self._leaving = lanes, leaving
        self._told.set()
        return any(number not in lanes and self.open(number) for number in self._links)

    def open(self, lane: int) -> int:
        """Return how many batches wait for a lane, or for its answer."""
        link = self._links.get(lane)
        return 0 if link is None else (counts := link.statistics()).open + counts.waiting

    async def hears(self, origin: str) -> bool:
        """Know the lane of a batch that has come, also where the stage will hold what is in it; False if it is lost."""
        await self._told.wait()
        if self._served is not None and self._number(origin) not in self._served:
            return False
        with contextlib.suppress(UnavailableError):
            self._by_origin(origin)
        return True

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Queue the batch and return the future of its receipt."""
        try:
            link = self._by_source(batch) if batch.identity is None else self._by_origin(batch.identity.origin)
        except UnavailableError as error:
            answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
            return answer
        return link.push_nowait(batch)

    async def wait_room(self) -> None:
        """Return when a lane has room: one that is full or away holds up no other.

        What piles up for it meanwhile is bounded by what its own ingest may have open.
        """
        if not self._links or any(link.has_room for link in self._links.values()):
            return
        waits = [asyncio.ensure_future(link.wait_room()) for link in self._links.values()]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def close(self) -> None:
        """Close the links."""
        self._closed = True
        for link in self._links.values():
            await link.close()

    def _by_origin(self, origin: str) -> Link:
        number = self._number(origin)
        if number is None:
            raise UnavailableError(f"a batch of {origin} belongs to no lane")
        return self._link(number)

    def _link(self, number: int) -> Link:
        link = self._links.get(number)
        if link is None:
            if self._closed:
                raise UnavailableError("the stage is closed")
            link = self._links[number] = self._open_link(number)
        return link

    def _number(self, origin: str) -> int | None:
        number = origin.removeprefix(self._prefix).partition("/")[0]
        return int(number) if origin.startswith(self._prefix) and number.isdecimal() else None

    def _by_source(self, batch: Batch) -> Link:
        """Choose by the highest hash, so that one lane more takes only its own share from the others."""
        known = [number for number in self._links if self._served is None or number in self._served - self._leaving]
        if not known and self._served is not None:  # those that stay were not heard from yet
            known = sorted(self._served - self._leaving)
        if not known:
            raise UnavailableError("no lane is known yet")
        source = batch.events[0].source if len(batch) else ""
        return self._link(max(known, key=lambda number: hash((number, source))))
