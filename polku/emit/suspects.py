"""Tell an event for which a destination's code fails from a destination that fails for all: the first is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from polku.contracts import Failure
from polku.emit.attempts import remote_trace
from polku.emit.parts import BatchPart, FaultyPartError
from polku.text import said

_ATTEMPTS = 5  # of an event alone, until it is given up
_FEW = 3  # events that may be at fault although nothing else was taken meanwhile; of more, the destination is
_KNOWN = 10_000
_SOON = 0.05  # seconds until an event that fails alone is sent once more, so that a passing fault does not reorder it


class Suspects:
    """Count how often a destination's code failed for an event that was sent alone, and decide which are given up.

    An event is given up after some attempts where the destination has taken others meanwhile. Where it has not, that is
    so of a few events in a row, and of none while the destination says that it is unwell. All others are held, as for
    one that is down.
    """

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, int]] = {}  # by id: how many alone, and what had been taken before
        self._accused: set[str] = set()  # since anything was taken
        self._taken = 0

    def __len__(self) -> int:
        return len(self._failures)

    async def send(
        self,
        part: BatchPart,
        send: Callable[[BatchPart], Awaitable[list[Failure]]],
        is_well: Callable[[], bool] = lambda: True,
    ) -> list[Failure]:
        """Send a part of a batch; raises `FaultyPartError` where it may be tried again, in smaller ones or alone."""
        try:
            failures = await send(part)
        except FaultyPartError:
            if len(part.positions) > 1:
                self.suspect(part.ids)
                raise
            await asyncio.sleep(_SOON)
            try:
                failures = await send(part)
            except FaultyPartError as error:
                (event_id,) = part.ids
                if not self.accuse(event_id, is_well=is_well()):
                    raise
                reason, detail = f"its code fails for this event: {said(error)}", remote_trace(error.__cause__)
                return [Failure(event_id, reason, retryable=False, position=0, detail=detail)]
        self.take()
        if self._failures:
            self.forget(part.ids)
        return failures

    def take(self) -> None:
        """Take note that the destination has taken events, or decided about them itself."""
        self._taken += 1
        self._accused.clear()

    def suspect(self, ids: Sequence[str]) -> None:
        """Take note of events among which there may be one for which its code fails."""
        for event_id in ids:
            self._failures.setdefault(event_id, (0, self._taken))
        while len(self._failures) > _KNOWN:
            del self._failures[next(iter(self._failures))]

    def forget(self, ids: Sequence[str]) -> None:
        """Suspect these events no longer."""
        for event_id in ids:
            self._failures.pop(event_id, None)

    def accuse(self, event_id: str, *, is_well: bool) -> bool:
        """Count a failure of an event alone; return whether it is to be given up."""
        self.suspect([event_id])
        count, before = self._failures.pop(event_id)
        if len(self._accused) <= _FEW:
            self._accused.add(event_id)
        is_at_fault = self._taken > before or (is_well and len(self._accused) <= _FEW)
        if count + 1 >= _ATTEMPTS and is_at_fault:
            return True
        self._failures[event_id] = count + 1, before
        return False
