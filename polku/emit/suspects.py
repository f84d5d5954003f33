"""Tell an event for which a destination's code fails from a destination that fails for all: the first is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from polku.contracts import Failure
from polku.emit.attempts import remote_trace
from polku.emit.parts import BatchPart, FaultyPartError
from polku.emit.progress import current
from polku.text import said

_ATTEMPTS = 5  # of an event alone, until it is given up where others are taken between them
_TURNS = 2  # times that others were taken between two of them, at least
_DOUBT = 0.01  # how likely it may be that an event fails so often by chance
_MEMORY = 200  # calls that were taken, after which earlier ones count half
_IDLE_ATTEMPTS = 10  # of an event alone, where there is nothing else that could be tried
_FEW = 3  # events that may be given up so; of more, the destination is at fault
_KNOWN = 10_000
_SOON = 0.05  # seconds until an event that fails alone is sent once more, so that a passing fault does not reorder it


@dataclass(slots=True)
class _Suspect:
    """How often an event failed alone, and how often others had been taken since the time before."""

    first: int  # what had been taken when it came to be suspected
    seen: int  # what had been taken when it failed last
    failures: int = 0
    turns: int = 0


class Suspects:
    """Count how often a destination's code failed for an event that was sent alone, and decide which are given up.

    An event is given up after five attempts where others were taken between them, at least twice, and so often as makes
    chance unlikely: where events are taken in the end that others had passed, it takes more. A destination that is down
    takes nothing between them, so that its events are held, however many attempts there are.

    Where nothing else is there to be tried, an event is given up after ten attempts while the destination is known to
    be well, three in a row at most until something is taken; and where others were taken since, at least twice.
    """

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}  # by id
        self._accused: set[str] = set()  # since anything was taken
        self._taken = 0
        self._recent = self._recovered = 0.0  # calls that were taken, and turns of events that were taken in the end

    def __len__(self) -> int:
        return len(self._suspects)

    async def send(
        self,
        part: BatchPart,
        send: Callable[[BatchPart], Awaitable[list[Failure]]],
        is_well: Callable[[FaultyPartError], bool],
    ) -> list[Failure]:
        """Send a part of a batch; raises `FaultyPartError` where it may be tried again, in smaller ones or alone.

        `is_well` returns whether the destination is known to work although it raised that.
        """
        try:
            failures = await self._send_twice(part, send)
        except FaultyPartError as error:
            if len(part.positions) > 1 or current().is_probe:
                self.suspect(part.ids)
                raise
            (event_id,) = part.ids
            others = current().events - 1
            if not self.accuse(event_id, is_well=is_well(error), others=others):
                error.is_of_event = self.is_of_event(event_id)
                raise
            reason, detail = f"its code fails for this event: {said(error)}", remote_trace(error.__cause__)
            return [Failure(event_id, reason, retryable=False, position=0, detail=detail)]
        self.take()
        if self._suspects:
            self.forget(part.ids)
        return failures

    async def _send_twice(
        self, part: BatchPart, send: Callable[[BatchPart], Awaitable[list[Failure]]]
    ) -> list[Failure]:
        """Send a part, and one event that fails alone for the first time once more."""
        try:
            return await send(part)
        except FaultyPartError:
            if len(part.positions) > 1 or current().is_probe or self._failures_of(part.ids[0]):
                raise
        await asyncio.sleep(_SOON)
        return await send(part)

    def take(self) -> None:
        """Take note that the destination has taken events, or decided about them itself."""
        self._taken += 1
        self._accused.clear()
        self._recent += 1
        if self._recent > _MEMORY:
            self._recent, self._recovered = self._recent / 2, self._recovered / 2

    def suspect(self, ids: Sequence[str]) -> None:
        """Take note of events among which there may be one for which its code fails."""
        for event_id in ids:
            if event_id not in self._suspects:
                self._suspects[event_id] = _Suspect(self._taken, self._taken)
        while len(self._suspects) > _KNOWN:
            del self._suspects[next(iter(self._suspects))]

    def forget(self, ids: Sequence[str]) -> None:
        """Suspect these events no longer: they were taken."""
        for event_id in ids:
            suspect = self._suspects.pop(event_id, None)
            self._recovered += 0 if suspect is None else suspect.turns

    def accuse(self, event_id: str, *, is_well: bool, others: int) -> bool:
        """Count a failure of an event alone; return whether it is to be given up.

        `others` is the number of other events that could be tried.
        """
        suspect = self._suspects.pop(event_id, None) or _Suspect(self._taken, self._taken)
        suspect.failures += 1
        suspect.turns += self._taken > suspect.seen
        suspect.seen = self._taken
        if not suspect.turns and len(self._accused) <= _FEW:
            self._accused.add(event_id)
        is_well = is_well or (suspect.turns > 0 and self._taken - suspect.first >= _TURNS)
        if self._is_proven(suspect) or (is_well and self._is_idle(suspect, others)):
            return True
        self._suspects[event_id] = suspect
        return False

    def is_of_event(self, event_id: str) -> bool:
        """Return whether others were taken since an event failed: then it says nothing about the destination."""
        suspect = self._suspects.get(event_id)
        return suspect is not None and suspect.turns > 0

    def _failures_of(self, event_id: str) -> int:
        suspect = self._suspects.get(event_id)
        return 0 if suspect is None else suspect.failures

    def _is_proven(self, suspect: _Suspect) -> bool:
        if suspect.failures < _ATTEMPTS or suspect.turns < _TURNS:
            return False
        chance = (self._recovered + 1) / (self._recovered + self._recent + 2)
        return bool(chance**suspect.turns <= _DOUBT)

    def _is_idle(self, suspect: _Suspect, others: int) -> bool:
        """Return whether there was nothing to try that might tell whose fault it is, for long enough."""
        if suspect.failures < _IDLE_ATTEMPTS:
            return False
        passed = sum(other.turns > 0 for other in self._suspects.values()) if others >= _FEW else 0
        return others - passed < _FEW and (suspect.turns > 0 or len(self._accused) <= _FEW)
