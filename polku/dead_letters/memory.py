"""Events that could not be delivered, kept with their reason: bounded in memory, counted for good."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch
from polku.batch.receipt import Refusal, located
from polku.clock import Clock, SystemClock
from polku.contracts import DeadEvent
from polku.dead_letters.kinds import Kind, PrincipalLetters, next_cut
from polku.errors import UnavailableError
from polku.event.v1.event_pb2 import Event
from polku.lazy import pattern
from polku.log import RepeatedLog
from polku.security.configuration import STAMP
from polku.text import block, line

if TYPE_CHECKING:
    from polku.dead_letters.store import Selection

LetterVerb = Literal["replay", "drop", "waiting"]

_IN_MEMORY = (
    "dead letters are kept in memory, to be looked at; .dead_letters(PATH) keeps them to be replayed or dropped"
)
_LOG = logging.getLogger(__name__)
_TRACEPARENT = pattern("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REPEATED = RepeatedLog(_LOG)
_REASON = 2_000
_SLICE = 100  # letters: a few milliseconds


class DeadLetter(NamedTuple):
    """One event that could not be delivered.

    `emitter` is empty where it never got to one; `time_ns` is Unix time in nanoseconds; `detail` is a traceback or
    what the destination said.
    """

    event: Event
    emitter: str
    code: str
    reason: str
    detail: str
    time_ns: int
    attempts: int = 1


class DeadLetterStatistics(NamedTuple):
    """Count dead letters by emitter and code; `forgotten` were pushed out by newer ones.

    `fault` says why letters cannot be stored or replayed now. `waiting` counts letters whose replay was asked for, by
    emitters that the pipeline does not have. `reasons` has the latest reason of each kind.
    """

    total: int
    kept: int
    forgotten: int
    by_reason: Mapping[tuple[str, str], int]
    fault: str = ""
    forgotten_by: Mapping[tuple[str, str], int] = {}
    waiting: Mapping[str, int] = {}
    reasons: Mapping[tuple[str, str], str] = {}


class DeadLetters:
    """Keep the latest dead letters and count every one; see `kinds` for which ones go.

    At most `limit` are kept, of at most `max_bytes` in all. `stamp` is the metadata with the principal of an event.
    """

    def __init__(
        self,
        limit: int = 1_000,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        clock: Clock | None = None,
        stamp: str = STAMP,
    ) -> None:
        self._stamp = stamp
        self._limit = limit
        self._room = max_bytes
        self._letters: dict[PrincipalLetters, deque[tuple[int, DeadLetter]]] = {}
        self._bytes: Counter[PrincipalLetters] = Counter()  # of the letters that are kept
        self._clock = clock or SystemClock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._forgotten: Counter[tuple[str, str]] = Counter()
        self._reasons: dict[tuple[str, str], str] = {}
        self._number = 0
        self._open = TaskSet("dead letters")

    def bury(self, emitter: str, batch: Batch, refused: Sequence[Refusal]) -> Awaitable[None] | None:
        """Keep those events of a batch that are refused; None means that they are kept."""
        return self._bury_all(emitter, refused_of(batch, refused))

    def bury_events(self, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        """Keep events on which middleware failed; None means that they are kept."""
        return self._bury_all("", dead)

    async def stored(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the dead letters that are kept, all or those that are chosen, oldest first, wherever they are kept."""
        return [letter for letter in self.latest() if selection is None or _is_chosen(letter, selection)]

    async def change(self, verb: LetterVerb, selection: Selection) -> int:
        """Do with letters what `polku dlq` does, and return how many those were; raises `UnavailableError`.

        `waiting` counts those whose replay was asked for and is not done yet.
        """
        raise UnavailableError(_IN_MEMORY)

    async def close(self) -> None:
        """Keep the letters that were handed in, and close files."""
        await self._open.wait()

    def latest(self) -> list[DeadLetter]:
        """Return the dead letters that are kept, oldest first."""
        numbered = [pair for letters in self._letters.values() for pair in letters]
        return [letter for _, letter in sorted(numbered, key=lambda pair: pair[0])]

    def statistics(self) -> DeadLetterStatistics:
        """Return a snapshot of the counters."""
        kept = sum(map(len, self._letters.values()))
        return DeadLetterStatistics(
            self._counts.total(),
            kept,
            self._forgotten.total(),
            dict(self._counts),
            forgotten_by=dict(self._forgotten),
            reasons=self._reasons.copy(),
        )

    def _bury_all(self, emitter: str, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        if len(dead) <= _SLICE:
            return self._take(emitter, dead)
        return asyncio.shield(self._open.start("many", self._take_in_slices(emitter, dead)))

    async def _take_in_slices(self, emitter: str, dead: Sequence[DeadEvent]) -> None:
        """Take very many, with turns for others: 10,000 of them take 200 ms."""
        waits = []
        for start in range(0, len(dead), _SLICE):
            if (stored := self._take(emitter, dead[start : start + _SLICE])) is not None:
                waits.append(stored)
            await asyncio.sleep(0)
        for stored in waits:
            await stored

    def _take(self, emitter: str, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        """Take some letters; None means that they are kept."""
        self._keep_all(emitter, dead)
        return None

    def _keep_all(self, emitter: str, dead: Sequence[DeadEvent]) -> None:
        now = self._clock.time_ns()
        message = reason = seen = kept = ""
        grown: set[PrincipalLetters] = set()
        for event, refusal, detail in dead:
            own = Event()
            own.CopyFrom(event)  # the original would keep its whole batch in memory
            if refusal.message != message:  # one message often says the same of thousands
                message, reason = refusal.message, line(refusal.message, _REASON)
            if detail is not seen:
                seen, kept = detail, block(detail)
            letter = DeadLetter(own, emitter, refusal.code, reason, kept, now, refusal.attempts)
            part = self._keep(letter)
            grown.add(part)
            _log(letter)
            if len(grown) > 1 or self._bytes[part] > self._room:
                self._cut(grown)
                grown.clear()
        if grown:
            self._cut(grown)

    def _keep(self, letter: DeadLetter) -> PrincipalLetters:
        part = PrincipalLetters(letter.emitter, letter.code, self.principal(letter.event))
        self._counts[part.kind] += 1
        self._reasons[part.kind] = letter.reason
        self._number += 1
        self._letters.setdefault(part, deque()).append((self._number, letter))
        self._bytes[part] += _size(letter)
        return part

    def _cut(self, grown: Collection[PrincipalLetters]) -> None:
        """Forget what there is no room for, once these parts have grown."""
        counts = {part: len(letters) for part, letters in self._letters.items()}
        while (cut := next_cut(counts, grown, self._limit)) is not None:
            counts[cut.part] -= cut.amount
            for _ in range(cut.amount):
                self._forget(cut.part)
        while (cut := next_cut(self._bytes, grown, self._room)) is not None:
            self._forget(cut.part)

    def principal(self, event: Event) -> str:
        """Return whose event this is, as far as it is stamped."""
        return event.metadata.get(self._stamp, "")

    def _forget(self, part: PrincipalLetters) -> None:
        letters = self._letters[part]
        _, letter = letters.popleft()
        self._bytes[part] -= _size(letter)
        self._forgotten[part.kind] += 1
        if not letters:
            del self._letters[part], self._bytes[part]


def _size(letter: DeadLetter) -> int:
    """Return how many bytes a letter takes, about."""
    return letter.event.ByteSize() + len(letter.reason) + len(letter.detail)


def refused_of(batch: Batch, refused: Sequence[Refusal]) -> list[DeadEvent]:
    """Return the events of a batch that are refused, with their refusals."""
    events = batch.events
    return [DeadEvent(events[refusal.position], refusal, refusal.detail) for refusal in located(refused, batch)]


def _log(letter: DeadLetter) -> None:
    where = f" for {letter.emitter}" if letter.emitter else ""
    kind = Kind(letter.emitter, letter.code)
    event_id = line(letter.event.id)
    about = {"event_id": event_id, "trace_id": _trace_id(letter.event)}
    if letter.emitter:
        about["component"] = f"emitter:{letter.emitter}"
    text = "dead letter%s: event %s: %s: %s; see `polku dlq list`"
    _REPEATED.warning(kind, text, where, event_id, letter.code, letter.reason, **about)
    if letter.detail:
        _REPEATED.info((*kind, "detail"), "%s", letter.detail.rstrip(), **about)


def _trace_id(event: Event) -> str:
    """Return the trace that an event says it is part of (W3C `traceparent`); empty where it says none."""
    found = _TRACEPARENT.match(event.metadata.get("traceparent", ""))
    return found[1] if found else ""


def _is_chosen(letter: DeadLetter, selection: Selection) -> bool:
    """Return whether a selection chooses a letter; those in memory have no ids of their own."""
    return (
        selection.event_id in (None, letter.event.id)
        and selection.emitter in (None, letter.emitter)
        and selection.code in (None, letter.code)
        and letter.time_ns >= selection.since_ns
    )
