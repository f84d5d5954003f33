"""Dead letters that outlive the process, and their way back into the pipeline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from polku.batch import Batch, Identity
from polku.clock import Clock
from polku.codes import Code
from polku.contracts import DeadEvent
from polku.daemon import DaemonExecutor
from polku.dead_letters.memory import DeadLetter, DeadLetters, DeadLetterStatistics
from polku.dead_letters.store import DeadLetterStore, Letter, as_event
from polku.errors import JournalError
from polku.log import RepeatedLog
from polku.receipt import Receipt, Refusal, located
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_AGAIN = 1.0  # seconds until what could not be stored is tried again
_LOOK = 1.0  # seconds between two looks for letters that are to be replayed

Replay = Callable[[Letter, Identity], Awaitable[bool]]


class StoredDeadLetters(DeadLetters):
    """Keep dead letters in a file; what is handed in is stored when the returned awaitable is done."""

    def __init__(self, path: str, max_events: int, max_bytes: int, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._path, self._max_events, self._max_bytes = path, max_events, max_bytes
        self._calls = DaemonExecutor("polku-dead-letters")
        self._store: DeadLetterStore | None = None
        self._pending: list[Letter] = []
        self._writing: asyncio.Task[None] | None = None
        self._written: asyncio.Future[None] | None = None
        self._looking: list[asyncio.Task[None]] = []
        self._faults: dict[str, str] = {}
        self._forgotten = 0

    def bury(self, emitter: str, batch: Batch, refused: Sequence[Refusal]) -> Awaitable[None] | None:
        """Keep those events of a batch that are refused; the awaitable is done when they are on disk."""
        super().bury(emitter, batch, refused)
        events = batch.events
        dead = [DeadEvent(events[refusal.position], refusal) for refusal in located(refused, batch)]
        return self._hand_in(emitter, dead)

    def bury_events(self, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        """Keep events on which middleware failed; the awaitable is done when they are on disk."""
        super().bury_events(dead)
        return self._hand_in("", dead)

    async def stored(self) -> list[DeadLetter]:
        """Return the latest dead letters that are on disk, oldest first."""
        from polku.dead_letters.store import Selection

        letters = await self._call(lambda store: list(store.select(Selection(), 1_000)))
        return [
            DeadLetter(as_event(x), x.emitter, x.code, x.reason, x.detail, x.last_ns, x.attempts)
            for x in reversed(letters)
        ]

    def statistics(self) -> DeadLetterStatistics:
        """Return a snapshot of the counters."""
        return super().statistics()._replace(forgotten=self._forgotten, fault=self._fault)

    def replay(self, replay: Replay, *, emitters: bool) -> None:
        """Send letters whose replay is asked for back, from now on: those of emitters, or those that got to none."""
        self._looking.append(asyncio.ensure_future(self._look_for_replays(replay, emitters)))

    async def close(self) -> None:
        """Store what is still to be stored, as far as that goes in five seconds, and close the file."""
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=5.0)
        store = self._store
        if store is not None:
            await asyncio.get_running_loop().run_in_executor(self._calls, store.close)
        self._calls.shutdown(wait=False)

    def _hand_in(self, emitter: str, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        if not dead:
            return None
        now = self._clock.time_ns()
        for event, refusal, detail in dead:
            letter = Letter(
                id=0,
                event_id=event.id,
                emitter=emitter,
                code=refusal.code,
                reason=refusal.message,
                detail=detail,
                attempts=refusal.attempts,
                first_ns=now,
                last_ns=now,
                type=event.event_type,
                source=event.source,
                replay=0,
                event=event.SerializeToString(),
            )
            self._pending.append(letter)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())
        return asyncio.shield(self._written)

    async def _write(self) -> None:
        """Store what was handed in, all of it at once; what comes meanwhile goes with the next transaction."""
        while self._pending and self._written is not None:
            letters, self._pending = self._pending, []
            written, self._written = self._written, None
            while True:
                try:
                    self._forgotten += await self._call(partial(_add, letters))
                except JournalError as error:
                    self._say_fault("storing", str(error))
                    await asyncio.sleep(_AGAIN)
                else:
                    self._say_fault("storing", "")
                    break
            written.set_result(None)

    async def _look_for_replays(self, replay: Replay, emitters: bool) -> None:
        seen = -1
        while True:
            try:
                changes = await self._call(DeadLetterStore.changes)
                if changes != seen:
                    again = await self._replay_all(replay, emitters)
                    seen = -1 if again else changes
                self._say_fault("looking", "")
            except JournalError as error:
                self._say_fault("looking", str(error))
            await asyncio.sleep(_LOOK)

    async def _replay_all(self, replay: Replay, emitters: bool) -> bool:
        """Send back what is asked for; return whether something is left to be tried again."""
        birth = await self._call(lambda store: store.birth)
        letters = await self._call(lambda store: store.replays(emitters=emitters))
        left = len(letters) == 256
        gone = []
        for letter in letters:
            if await replay(letter, Identity(f"dlq/{'emitters' if emitters else 'intake'}", birth, letter.replay)):
                gone.append(letter)
            else:
                left = True
        if gone:
            await self._call(lambda store: store.replayed(gone))
            _REPEATED.info("replay", "%d dead letters go through the pipeline again", len(gone))
        return left

    @property
    def _fault(self) -> str:
        return next(filter(None, self._faults.values()), "")

    def _say_fault(self, work: str, text: str) -> None:
        if text and text != self._faults.get(work):
            _REPEATED.error(work, "dead letters: %s", text)
        self._faults[work] = text

    async def _call(self, work: Callable[[DeadLetterStore], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._with_store, work)

    def _with_store(self, work: Callable[[DeadLetterStore], T]) -> T:
        if self._store is None:
            self._store = DeadLetterStore(self._path, max_events=self._max_events, max_bytes=self._max_bytes)
        return work(self._store)


def _add(letters: Sequence[Letter], store: DeadLetterStore) -> int:
    return store.add(letters)


def to_outlet(push: Callable[[Batch], Awaitable[Receipt | Awaitable[Receipt]]], known: frozenset[str]) -> Replay:
    """Send a letter back through its emitter's outlet; one of an emitter that is no more stays."""

    async def replay(letter: Letter, identity: Identity) -> bool:
        if letter.emitter not in known:
            return False
        batch = Batch(payload=None, events=[as_event(letter)], routes=(letter.emitter,), identity=identity)
        answer = await push(batch)
        return (isinstance(answer, Receipt) and not answer.refused) or not isinstance(answer, Receipt)

    return replay


def to_intake(take: Callable[[bytes], Awaitable[Ack]]) -> Replay:
    """Send a letter that got to no emitter through the whole pipeline again."""

    async def replay(letter: Letter, identity: Identity) -> bool:
        message = IngestBatch(source=letter.source, events=EventPayload(events=[as_event(letter)]))
        ack = await take(message.SerializeToString())
        codes = {error.code for error in ack.errors}
        # What dies again is a new letter by now; what was not taken because there is no room stays to be tried again.
        return not codes & {Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING}

    return replay
