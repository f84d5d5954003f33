"""How an outlet learns from its emitter what became of a batch, and keeps what was refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, Refusal
from polku.buffer.positions import OutletEntry
from polku.codes import Code
from polku.errors import DrainingError
from polku.link.link import Link
from polku.log import RepeatedLog
from polku.tap.point import Note, TapPoint
from polku.tap.request import What
from polku.text import named
from polku.usercode import as_exception, is_ours

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_AGAIN_SECONDS = 1.0  # until a batch that the link gave back is pushed again

Bury = Callable[[str, Batch, tuple[Refusal, ...]], Awaitable[None] | None]


class OutletDelivery:
    """Wait for the verdicts of one emitter; `name` is the outlet's, `link` leads to the emitter.

    `fault` is why the latest push ended without an answer, until one is answered.
    """

    def __init__(self, name: str, link: Link, bury: Bury, tasks: TaskSet) -> None:
        self.name = name
        self._bury = bury
        self._tasks = tasks
        self.use(link)

    def use(self, link: Link) -> None:
        """Push over this link from now on."""
        self.link = link
        self.fault = ""
        link.notify(fault=self._note_fault)

    async def wait_for_receipt(self, batch: Batch, answer: asyncio.Future[Receipt]) -> Receipt | None:
        """Return what became of a batch: only the emitter can tell; None where the link was closed before it did."""
        while True:
            try:
                receipt = await answer
            except DrainingError:
                return None
            except BaseException as error:  # not even the link could try again: behind what it has, but nothing is lost
                if is_ours(error):
                    raise
                self._note_fault(as_exception(error))
                await asyncio.sleep(_AGAIN_SECONDS)
                answer = self.link.push_nowait(batch)
            else:
                self.fault = ""
                return receipt

    async def keep_refused(self, batch: Batch, refused: tuple[Refusal, ...]) -> None:
        """Return when the dead letters of refused events are kept: until then the outlet does not move past them."""
        while True:
            try:
                stored = self._bury(self.name, batch, refused)
                if stored is not None:
                    await stored
            except BaseException as error:
                if is_ours(error):
                    raise
                self._tasks.note("dead letters", error)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self._tasks.works("dead letters")
                return

    def _note_fault(self, error: Exception) -> None:
        """Have health show what a push ended with: it is no verdict about an event, so the events are held."""
        self.fault = named(error)
        _REPEATED.warning(
            (self.name, "push"), "emitter %r cannot be reached, its events are held: %s", self.name, self.fault
        )


def show(tap: TapPoint, batch: Batch, placed: list[tuple[int, int]], refused: tuple[Refusal, ...]) -> None:
    """Show what became of a batch that was delivered; `placed` are starts and counts of what is decided."""
    dead = {refusal.position for refusal in refused}
    if dead:
        notes = [Note(refusal.position, refusal.code, refusal.message) for refusal in refused]
        tap.show(What.DEAD, batch, notes=notes)
    decided = sum(count for _, count in placed)
    if not dead and decided == len(batch):
        tap.show(What.OUT, batch)
        return
    there = [at for start, count in placed for at in range(start, start + count) if at not in dead]
    if there:
        tap.show(What.OUT, batch.select(there))


def decided(placed: list[tuple[int, OutletEntry]], receipt: Receipt) -> tuple[list[tuple[int, OutletEntry]], Receipt]:
    """Leave out the entries, each given with its start in the batch, of which an event has no outcome yet.

    An emitter that had to return early answers like this. The outcome of such an entry is asked for again.
    """
    unknown = [refusal.position for refusal in receipt.refused if refusal.code is Code.UNAVAILABLE]
    if not unknown:
        return placed, receipt
    known = [(start, entry) for start, entry in placed if not any(0 <= at - start < entry.count for at in unknown)]
    refused = [r for r in receipt.refused if any(0 <= r.position - start < entry.count for start, entry in known)]
    return known, receipt._replace(refused=tuple(refused))
