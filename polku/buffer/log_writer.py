"""The thread that writes a journal: what is collected while one transaction is on its way to the disk is the next one.

No timer is involved where somebody waits for an answer. What nobody waits for (how far the outlets are, refusals that
came later) travels with the same transactions, or alone after a moment. A journal that cannot be written or opened is
tried again, and one that is damaged is repaired.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from polku.batch.batch import Identity
from polku.batch.receipt import Refusal
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.journal_session import JournalSession, Opened
from polku.buffer.remembered import StoredAnswer
from polku.buffer.reserve import Reserve
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from polku.log import RepeatedLog

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_CURSORS_ALONE = 0.05  # seconds until cursors are written that nothing else travels with
_TRY_AGAIN = 0.5  # seconds until what could not be written is tried again
_REOPEN = 1.0  # seconds until a journal that could not be opened is tried again


@dataclass(slots=True)
class WriteUnit:
    """What one push puts into the journal: all of it or nothing."""

    done: asyncio.Future[None]
    rows: list[Row] = field(default_factory=list)
    answer: StoredAnswer | None = None
    size: int = 0
    events: int = 0


@dataclass(slots=True)
class Rearrangement:
    """Other outlets than before, once what waits is written: former names by new ones, and one that is no more."""

    done: asyncio.Future[None]
    outlets: Sequence[str]
    renamed: Mapping[str, str]
    forgotten: str


@dataclass(slots=True)
class DeferredWrites:
    """What is to be written, but nobody waits for."""

    cursors: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[Identity, Sequence[Refusal]]] = field(default_factory=list)
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.cursors or self.refused or self.lost)

    def give_back(self, older: DeferredWrites) -> None:
        """Add what could not be written."""
        for name, cursor in older.cursors.items():
            self.cursors[name] = max(cursor, self.cursors.get(name, 0))
        self.refused = older.refused + self.refused
        self.lost += older.lost


class Written(Protocol):
    """What hears of the writer's work, in the event loop."""

    def on_opened(self, opened: Opened) -> None:
        """Learn that the journal was opened, or opened again."""
        ...

    def on_written(self, units: Sequence[WriteUnit], events: int, size: int) -> None:
        """Learn what is on disk now, and the events and bytes that left the journal with it."""
        ...

    def on_freed(self, events: int, size: int) -> None:
        """Learn of events and bytes that left the journal."""
        ...

    def on_refused(self, units: Sequence[WriteUnit], error: JournalError) -> None:
        """Learn what is not written, and will not be."""
        ...

    def on_failed(self, units: Sequence[WriteUnit], error: JournalError) -> None:
        """Learn what is not written, and that nothing can be written now."""
        ...

    def on_fault(self, text: str) -> None:
        """Learn why nothing can be written now."""
        ...


class LogWriter:
    """Write what the event loop hands over; `close` writes the rest.

    The thread owns `_is_failing`, and reads and writes the attributes under `_wake` while it holds that, as the event
    loop does; all else is set before it starts. The journal is opened in the session's thread, for which it waits.
    """

    def __init__(self, session: JournalSession, calls: concurrent.futures.Executor, written: Written) -> None:
        self._session = session
        self._calls = calls
        self._written = written
        self._outlets: tuple[str, ...] = ()
        self._reserve = Reserve(session.path)
        self._wake = threading.Condition()
        self._units: list[WriteUnit] = []
        self._deferred = DeferredWrites()
        self._rearrangements: list[Rearrangement] = []
        self._must_repair = False
        self._is_closing = False
        self._is_failing = False
        self._taken_over: JournalLockedError | None = None
        self._ended: asyncio.Future[None] | None = None

    def start(self, outlets: Sequence[str]) -> None:
        """Start the thread."""
        self._outlets = tuple(outlets)
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        try:
            threading.Thread(target=self._write_for_ever, name="polku-journal", daemon=True).start()
        except RuntimeError:  # no thread, so none whose end `close` could wait for
            self._ended = None
            raise

    def add(self, unit: WriteUnit) -> None:
        """Have a unit written; `unit.done` tells when it is, or why it is not."""
        with self._wake:
            if self._is_closing:
                unit.done.set_exception(JournalError(self._session.path, "was closed"))
                return
            self._units.append(unit)
            self._wake.notify()

    async def arrange(self, outlets: Sequence[str], renamed: Mapping[str, str], *, forgotten: str = "") -> None:
        """Have the journal know these outlets, when what waits is written; raises `JournalError`."""
        wanted = Rearrangement(asyncio.get_running_loop().create_future(), tuple(outlets), dict(renamed), forgotten)
        with self._wake:
            if self._is_closing:
                raise JournalError(self._session.path, "was closed")
            self._rearrangements.append(wanted)
            self._wake.notify()
        await wanted.done

    def take_back(self) -> list[WriteUnit]:
        """Return the units that wait, which are not written then."""
        with self._wake:
            units, self._units = self._units, []
        return units

    def amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        """Have refusals added to an answer, with the next transaction."""
        with self._wake:
            self._deferred.refused.append((identity, refused))

    def move_cursor(self, outlet: str, cursor: int) -> None:
        """Have it written how far an outlet is."""
        with self._wake:
            if cursor > self._deferred.cursors.get(outlet, 0):
                self._deferred.cursors[outlet] = cursor
                self._wake.notify()

    def count_lost(self, batches: int) -> None:
        """Have it written how many batches turned out to be damaged."""
        with self._wake:
            self._deferred.lost += batches
            self._wake.notify()

    def repair(self) -> None:
        """Have the journal closed, repaired and opened again."""
        with self._wake:
            self._must_repair = True
            self._wake.notify()

    async def close(self) -> None:
        """Write what is left, and end the thread."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._ended is not None:
            await self._ended

    def _write_for_ever(self) -> None:
        """Be the thread."""
        try:
            while True:
                units, deferred, is_closing = self._next_work()
                try:
                    self._work_on(units, deferred)
                    self._rearrange()
                except Exception as error:
                    path = self._session.path
                    _REPEATED.exception((path, "work"), "journal %s", path)
                    self._post(self._written.on_failed, units, JournalError(path, f"{type(error).__name__}: {error}"))
                if is_closing and not units:
                    return
        finally:
            assert self._ended is not None
            self._post(self._ended.set_result, None)

    def _work_on(self, units: list[WriteUnit], deferred: DeferredWrites) -> None:
        if self._taken_over is not None:
            self._post(self._written.on_refused, units, self._taken_over)
            return
        if (self._session.journal is None or self._must_repair) and not self._reopen(units):
            self._keep(deferred)
            return
        journal = self._session.journal
        if journal is None:
            return
        if units or deferred:
            self._write(journal, units, deferred)
        elif self._is_failing:
            self._probe(journal)

    def _next_work(self) -> tuple[list[WriteUnit], DeferredWrites, bool]:
        with self._wake:
            while not (self._units or self._is_closing or self._must_repair or self._rearrangements):
                if not self._wake.wait(self._pause()) and self._pause() is not None:
                    break
            units, self._units = self._units, []
            deferred, self._deferred = self._deferred, DeferredWrites()
            return units, deferred, self._is_closing

    def _pause(self) -> float | None:
        if self._taken_over is not None:
            return None
        if self._session.journal is None:
            return _REOPEN
        if self._deferred:
            return _TRY_AGAIN if self._is_failing else _CURSORS_ALONE
        return _REOPEN if self._is_failing else None

    def _write(self, journal: Journal, units: list[WriteUnit], deferred: DeferredWrites) -> None:
        rows = [row for unit in units for row in unit.rows]
        answers = [unit.answer for unit in units if unit.answer is not None]
        try:
            if rows:
                self._reserve.take()
            freed = journal.write(Transaction(rows, answers, deferred.cursors, deferred.refused, deferred.lost))
        except JournalError as error:
            self._is_failing = True
            self._must_repair |= isinstance(error, JournalCorruptError)
            self._post(self._written.on_failed, units, error)
            if isinstance(error, JournalLockedError):
                self._taken_over = error
                return
            if deferred and not self._write_alone(journal, deferred):
                self._keep(deferred)
        else:
            self._is_failing = False
            self._post(self._written.on_written, units, *freed)
            if not units:
                self._give_back(journal)

    def _rearrange(self) -> None:
        with self._wake:
            wanted, self._rearrangements = self._rearrangements, []
        for each in wanted:
            error: JournalError | None = self._taken_over
            journal = self._session.journal
            if error is None and journal is None:
                error = JournalError(self._session.path, "cannot be written now")
            elif error is None and journal is not None:
                try:
                    if each.forgotten:
                        for freed in journal.retire(each.forgotten):
                            self._post(self._written.on_freed, *freed)
                    else:
                        self._post(self._written.on_freed, *journal.register(each.outlets, each.renamed))
                except JournalError as failed:
                    error = failed
            if error is None:
                self._outlets = tuple(each.outlets)
            self._post(_tell, each.done, error)

    def _write_alone(self, journal: Journal, deferred: DeferredWrites) -> bool:
        """Write what makes room without the batches that found none, if need be with the room that was kept for it."""
        for last_room in (False, True):
            try:
                if last_room:
                    self._reserve.give_up()
                    journal.checkpoint()
                freed = journal.write(Transaction((), (), deferred.cursors, deferred.refused, deferred.lost))
            except JournalError:
                continue
            self._post(self._written.on_freed, *freed)
            self._give_back(journal)
            return True
        return False

    def _keep(self, deferred: DeferredWrites) -> None:
        with self._wake:
            self._deferred.give_back(deferred)

    def _probe(self, journal: Journal) -> None:
        """Find out whether the journal can be written again."""
        try:
            self._reserve.take()
            journal.probe()
        except JournalError as error:
            self._must_repair |= isinstance(error, JournalCorruptError)
            self._taken_over = error if isinstance(error, JournalLockedError) else None
            self._post(self._written.on_fault, str(error))
        else:
            self._is_failing = False
            self._post(self._written.on_written, [], 0, 0)

    def _give_back(self, journal: Journal) -> None:
        """Let the file shrink a little while there is nothing better to do."""
        try:
            while journal.shrink():
                with self._wake:
                    if self._units or self._is_closing:
                        return
        except JournalError as error:
            _REPEATED.warning((self._session.path, "shrink"), "%s (while it was to be made smaller)", error)

    def _reopen(self, units: list[WriteUnit]) -> bool:
        """Try to open the journal again; those who wait for it are refused."""
        damaged, self._must_repair = self._must_repair, False
        try:
            opened = self._calls.submit(self._session.open, self._outlets, damaged=damaged).result()
        except JournalError as error:
            if self._session.was_open and isinstance(error, JournalLockedError):
                self._taken_over = error
            self._post(self._written.on_failed, units, error)
            return False
        self._is_failing = False
        self._post(self._written.on_refused, list(units), opened_late(self._session))
        units.clear()
        done = threading.Event()
        self._post(self._written.on_opened, opened)
        self._post(done.set)
        while not done.wait(1.0):
            if self._loop.is_closed():
                return False
        return True

    def _post(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _tell(done: asyncio.Future[None], error: JournalError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def opened_late(session: JournalSession) -> JournalError:
    """Return why a unit is refused that came before the journal was open: its position may be that of another batch."""
    return JournalError(session.path, "the batch arrived before it was open")
