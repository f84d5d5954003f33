"""Dead letters that outlive the process, and their way back into the pipeline."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

from polku.aio.threads import DaemonExecutor
from polku.batch.receipt import Refusal
from polku.clock import Clock
from polku.contracts import DeadEvent
from polku.dead_letters.kinds import Kind
from polku.dead_letters.memory import DeadLetter, DeadLetters, DeadLetterStatistics, LetterVerb
from polku.dead_letters.replay import Replayer, Send
from polku.dead_letters.store import DeadLetterStore, Letter, Selection, as_event
from polku.event.v1.event_pb2 import Event
from polku.log import RepeatedLog
from polku.security.configuration import STAMP
from polku.text import said

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_AGAIN = 1.0  # seconds until what could not be stored is tried again
_LAST_CHANCE = 5.0  # seconds that `close` waits for what is still to be stored


class StoredDeadLetters(DeadLetters):
    """Keep dead letters in a file; what is handed in is stored when the returned awaitable is done."""

    def __init__(
        self, path: str, max_events: int, max_bytes: int, *, clock: Clock | None = None, stamp: str = STAMP
    ) -> None:
        super().__init__(clock=clock, stamp=stamp)
        self._path, self._max_events, self._max_bytes = path, max_events, max_bytes
        self._calls = DaemonExecutor("polku-dead-letters")
        self._closed = False
        self._store: DeadLetterStore | None = None
        self._pending: list[Letter] = []
        self._writing: asyncio.Task[None] | None = None
        self._written: asyncio.Future[None] | None = None
        self._replayers: list[Replayer] = []
        self._looking: list[asyncio.Task[None]] = []
        self._fault = ""
        self._pushed_out: Counter[tuple[str, str]] = Counter()

    async def stored(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the latest dead letters that are on disk, of all or of those that are chosen, oldest first."""
        letters = await self._call(partial(_latest, selection or Selection()))
        return [
            DeadLetter(as_event(x), x.emitter, x.code, x.reason, x.detail, x.last_ns, x.attempts)
            for x in reversed(letters)
        ]

    async def change(self, verb: LetterVerb, selection: Selection) -> int:
        """Mark letters for their replay, or remove them, as `polku dlq` does; return how many."""
        match verb:
            case "replay":
                return await self._call(lambda store: store.mark(selection))
            case "drop":
                return await self._call(lambda store: store.drop(selection))
            case "waiting":
                return sum((await self._call(DeadLetterStore.waiting)).values())

    def statistics(self) -> DeadLetterStatistics:
        """Return a snapshot of the counters."""
        faults = filter(None, (self._fault, *(replayer.fault for replayer in self._replayers)))
        waiting = {name: count for replayer in self._replayers for name, count in replayer.absent.items()}
        statistics = super().statistics()
        return statistics._replace(
            forgotten=self._pushed_out.total(),
            forgotten_by=dict(self._pushed_out),
            fault=next(faults, ""),
            waiting=waiting,
        )

    def replay(self, send: Send, emitters: Collection[str]) -> None:
        """Send letters of these emitters whose replay is asked for back, from now on; `""` are those of none."""
        replayer = Replayer(self._call, send, emitters)
        self._replayers.append(replayer)
        self._looking.append(asyncio.ensure_future(replayer.run()))

    def replay_to(self, emitters: Collection[str]) -> None:
        """Replay the letters of these emitters instead of those that were named before, apart from those of none."""
        for replayer in self._replayers:
            if not replayer.serves_none:
                replayer.serve(emitters)

    async def close(self) -> None:
        """Store what is still to be stored, as far as that goes in five seconds, and close the file."""
        for task in self._looking:
            task.cancel()
        await self._open.wait(_LAST_CHANCE)
        await asyncio.gather(*self._looking, return_exceptions=True)
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=_LAST_CHANCE)
        await asyncio.gather(*(replayer.end(_LAST_CHANCE) for replayer in self._replayers))
        if self._writing is not None:
            self._writing.cancel()
        if not self._closed:
            self._closed = True
            store = self._store
            if store is not None:
                await asyncio.get_running_loop().run_in_executor(self._calls, store.close)
            self._calls.shutdown(wait=False)

    def _take(self, emitter: str, dead: Sequence[DeadEvent]) -> Awaitable[None] | None:
        """Hand letters in; the awaitable is done when they are on disk."""
        if not dead:
            return None
        self._keep_all(emitter, dead)
        now = self._clock.time_ns()
        self._pending += [
            _letter(emitter, event, refusal, detail, now)._replace(principal=self.principal(event))
            for event, refusal, detail in dead
        ]
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
            try:
                for kind, count in (await self._store_all(letters)).items():
                    self._pushed_out[kind] += count
            except asyncio.CancelledError:
                lost = len(letters) + len(self._pending)
                _LOG.error("dead letters: %d could not be stored before the end: %s", lost, self._fault or "no time")
                for future in filter(None, (written, self._written)):
                    future.cancel()  # who waits for it must not take it for stored
                raise
            if not written.done():
                written.set_result(None)

    async def _store_all(self, letters: Sequence[Letter]) -> Mapping[Kind, int]:
        """Store letters, and try until that succeeds: nobody else has them. Return what had to go for them."""
        while True:
            try:
                forgotten = await self._call(partial(_add, letters))
            except Exception as error:  # most often the disk; whatever it is, letters are not given up for it
                self._say_fault(said(error))
                await asyncio.sleep(_AGAIN)
            else:
                self._say_fault("")
                return forgotten

    def _say_fault(self, text: str) -> None:
        if text and text != self._fault:
            _REPEATED.error("storing", "dead letters: %s", text)
        self._fault = text

    async def _call(self, work: Callable[[DeadLetterStore], T]) -> T:
        """Do something with the file; after the end too, for who looks at what is left."""
        if not self._closed:
            return await asyncio.get_running_loop().run_in_executor(self._calls, self._with_store, work)
        thread = DaemonExecutor("polku-dead-letters")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, self._with_own_store, work)
        finally:
            thread.shutdown()

    def _with_store(self, work: Callable[[DeadLetterStore], T]) -> T:
        if self._store is None:
            self._store = self._new_store()
        return work(self._store)

    def _with_own_store(self, work: Callable[[DeadLetterStore], T]) -> T:
        store = self._new_store()
        try:
            return work(store)
        finally:
            store.close()

    def _new_store(self) -> DeadLetterStore:
        return DeadLetterStore(self._path, max_events=self._max_events, max_bytes=self._max_bytes)


def _letter(emitter: str, event: Event, refusal: Refusal, detail: str, now: int) -> Letter:
    return Letter(
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
        event=event.SerializeToString(deterministic=True),
    )


def _add(letters: Sequence[Letter], store: DeadLetterStore) -> Mapping[Kind, int]:
    return store.add(letters)


def _latest(selection: Selection, store: DeadLetterStore) -> list[Letter]:
    return list(store.select(selection, 1_000))
