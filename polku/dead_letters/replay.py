"""The way of dead letters back into the pipeline: each emitter's at its own pace, so that none waits for another's.

A letter leaves its file when its event is as safe as there: in the journal, or delivered. (One that got to no emitter
goes through the whole pipeline, and leaves when it has the answer that a client would have.) What found no room is
tried again, as an attempt of its own; what was refused stays, unless it is another letter by now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Protocol, TypeVar

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Answer, Refusal, outcome_of
from polku.codes import Code
from polku.dead_letters.store import DeadLetterStore, Letter, as_event
from polku.errors import UnavailableError
from polku.event.v1.event_pb2 import Event
from polku.log import RepeatedLog
from polku.text import line, named, said
from polku.usercode import is_ours

T = TypeVar("T")

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_LOOK = 1.0  # seconds between two looks for letters that are to be replayed
_LONGEST_PAUSE = 30.0  # seconds until letters that find no room are tried again; the first pause is `_LOOK`, then twice
_AT_ONCE = 64  # of one emitter; fewer than the answers that the buffer remembers of one origin
_TURNS = 0.1  # seconds in which who waits for an answer that is there gets it
_ROOM = frozenset({Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING})

Send = Callable[[Letter, Identity], Awaitable[Sequence[Refusal]]]
"""Send a letter's event into the pipeline and return its refusals: none, once it is as safe as it gets."""


class RunInThread(Protocol):
    """Run a function of the store outside of the event loop; raises `JournalError`."""

    def __call__(self, work: Callable[[DeadLetterStore], T]) -> Awaitable[T]:
        """Return the awaitable of what the function returns."""
        ...


class Replayer:
    """Look for letters that are to be replayed, and replay those of the `emitters` (an empty name: of none).

    `fault` says why that cannot be done now, `absent` counts letters of emitters that nobody replays.
    """

    def __init__(self, call: RunInThread, send: Send, emitters: Collection[str]) -> None:
        self._call = call
        self._send = send
        self._emitters = frozenset(emitters)
        self._replaying: dict[str, asyncio.Task[None]] = {}
        self._sending: dict[str, Sequence[asyncio.Future[Sequence[Refusal]]]] = {}  # by emitter
        self._ends = asyncio.Event()
        self._pauses: dict[str, tuple[float, float]] = {}  # by emitter: how long, and until when by the loop's clock
        self._faults: dict[str, str] = {}
        self.absent: dict[str, int] = {}

    @property
    def serves_none(self) -> bool:
        """Whether it replays letters that got to no emitter."""
        return "" in self._emitters

    def serve(self, emitters: Collection[str]) -> None:
        """Replay the letters of these emitters from the next look on."""
        self._emitters = frozenset(emitters)

    @property
    def fault(self) -> str:
        """Why letters cannot be replayed now; empty where they can."""
        return next(filter(None, self._faults.values()), "")

    async def run(self) -> None:
        """Replay what is asked for until this is cancelled; `end` is called then."""
        while True:
            await self._guarded("", self._look())
            await asyncio.sleep(_LOOK)

    async def end(self, timeout: float) -> None:
        """Begin no replay any more, and note what became of the letters whose events have their answer by now."""
        self._ends.set()
        sent = [sending for all_sent in self._sending.values() for sending in all_sent if not sending.done()]
        if sent:
            await asyncio.wait(sent, timeout=_TURNS)
        for sending in sent:
            sending.cancel()  # its letter stays
        if self._replaying:
            _, late = await asyncio.wait(self._replaying.values(), timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _look(self) -> None:
        waiting = await self._call(DeadLetterStore.waiting)
        self._note_absent({name: count for name, count in waiting.items() if name and name not in self._emitters})
        self._replaying = {name: task for name, task in self._replaying.items() if not task.done()}
        for name in self._emitters.intersection(waiting).difference(self._replaying, self._resting()):
            work = self._guarded(name, self._replay(name))
            self._replaying[name] = asyncio.get_running_loop().create_task(work)

    def _resting(self) -> set[str]:
        """Return the emitters whose letters found no room a short while ago."""
        now = asyncio.get_running_loop().time()
        return {name for name, (_, until) in self._pauses.items() if now < until}

    def _rest(self, emitter: str) -> None:
        pause = min(2 * self._pauses.get(emitter, (_LOOK / 2, 0.0))[0], _LONGEST_PAUSE)
        self._pauses[emitter] = (pause, asyncio.get_running_loop().time() + pause)

    def _note_absent(self, absent: dict[str, int]) -> None:
        if "" in self._emitters:
            return  # whoever replays those of emitters knows which ones there are
        for name in absent.keys() - self.absent.keys():
            text = "%d dead letters wait for emitter %r, which is not in the pipeline"
            _REPEATED.warning(("absent", name), text, absent[name], name)
        self.absent = absent

    async def _replay(self, emitter: str) -> None:
        """Replay the letters of one emitter, until none is left or one has to wait."""
        birth = await self._call(_birth)
        while (letters := await self._call(partial(_replays, emitter))) and not self._ends.is_set():
            answers = await self._send_all(emitter, birth, letters)
            taken, refused = [], []
            for letter, answer in zip(letters, answers, strict=True):
                if isinstance(answer, BaseException):
                    continue  # what became of it is not known: the same attempt is made again
                refused.append((letter, answer)) if answer else taken.append(letter)
            await self._call(partial(_taken, taken))
            if taken:
                where = f" of {emitter}" if emitter else ""
                _REPEATED.info(
                    ("replayed", emitter), "%d dead letters%s went through the pipeline again", len(taken), where
                )
            has_to_wait = await self._settle_refused(refused)
            if self._ends.is_set():
                return
            for error in (answer for answer in answers if isinstance(answer, BaseException)):
                raise UnavailableError(named(error)) from error
            if has_to_wait:
                self._rest(emitter)
                return
            self._pauses.pop(emitter, None)

    async def _send_all(
        self, emitter: str, birth: int, letters: Sequence[Letter]
    ) -> Sequence[Sequence[Refusal] | BaseException]:
        sending = [
            asyncio.ensure_future(self._send(letter, Identity(f"dlq/{emitter}", birth, letter.replay)))
            for letter in letters
        ]
        self._sending[emitter] = sending
        try:
            return await asyncio.gather(*sending, return_exceptions=True)
        finally:
            del self._sending[emitter]

    async def _settle_refused(self, refused: Sequence[tuple[Letter, Sequence[Refusal]]]) -> bool:
        """Return whether some of them have to wait for room.

        A letter goes whose event is in another one by now; of one whose event has died as before nothing is changed.
        """
        waiting, elsewhere = [], []
        for letter, refusals in refused:
            if any(refusal.code in _ROOM for refusal in refusals):
                waiting.append(letter)
            elif all(refusal.letter for refusal in refusals):
                elsewhere.append(letter)
            else:
                reason = f"{refusals[0].code}: {refusals[0].message}"
                await self._call(partial(_refused, letter, reason))
        if elsewhere:
            await self._call(partial(_taken, elsewhere))
        if waiting:
            await self._call(partial(_try_again, waiting))
        return bool(waiting)

    async def _guarded(self, name: str, work: Awaitable[None]) -> None:
        """Do some work; whatever it fails with is shown, and it is done again a little later."""
        try:
            await work
            self._faults[name] = ""
        except BaseException as error:
            if is_ours(error):
                raise
            text = line(f"replaying{f' to {name}' if name else ''}: {said(error)}")
            if text != self._faults.get(name):
                _REPEATED.error(name, "dead letters: %s", text)
            self._faults[name] = text


def to_outlet(push: Callable[[Batch], Awaitable[Answer]]) -> Send:
    """Send letters back through their emitter's outlet."""

    async def send(letter: Letter, identity: Identity) -> Sequence[Refusal]:
        batch = Batch(payload=None, events=[as_event(letter)], routes=(letter.emitter,), identity=identity)
        return (await outcome_of(await push(batch))).refused

    return send


def to_intake(take: Callable[[Event], Awaitable[Sequence[Refusal]]]) -> Send:
    """Send letters that got to no emitter through the whole pipeline again."""

    async def send(letter: Letter, identity: Identity) -> Sequence[Refusal]:
        return await take(as_event(letter))

    return send


def _birth(store: DeadLetterStore) -> int:
    return store.birth


def _replays(emitter: str, store: DeadLetterStore) -> list[Letter]:
    return store.replays(emitter, _AT_ONCE)


def _taken(letters: Sequence[Letter], store: DeadLetterStore) -> None:
    store.replayed(letters)


def _try_again(letters: Sequence[Letter], store: DeadLetterStore) -> None:
    store.try_again(letters)


def _refused(letter: Letter, reason: str, store: DeadLetterStore) -> None:
    store.refused(letter, reason)
