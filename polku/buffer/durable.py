"""The log on disk: a journal, the thread that writes it, and what of it is kept at hand in memory.

Group commit: while one transaction is on its way to the disk, what arrives is collected, and goes with the next one.
No timer is involved where somebody waits for an answer. How far the outlets are (their cursors) travels with the same
transactions; alone it waits a moment, since all that depends on it is what would be delivered again after a crash.

A disk that is full, or a path that cannot be written, costs what was to be written (its sender is refused) and nothing
else: the next transaction tries again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from polku.aio.threads import DaemonExecutor
from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Refusal
from polku.buffer.answers import Answer
from polku.buffer.journal import Journal, Row, Work
from polku.buffer.journal_file import weigh
from polku.buffer.lock import FileLock
from polku.buffer.log import OnOpen, Recovered
from polku.buffer.owner import new_owner
from polku.buffer.place import check_ours, check_place, warn_of_place
from polku.buffer.positions import OutletState, Slot, describe_orphan
from polku.buffer.repair import finish_salvage, salvage
from polku.buffer.reserve import Reserve
from polku.disk import make_folder
from polku.errors import JournalCorruptError, JournalError, JournalLockedError, JournalPathError
from polku.log import RepeatedLog
from polku.sqlite import as_journal_error

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_AT_HAND = 16 * 1024 * 1024  # bytes of the latest batches that are not read from the disk again
_BATCH_COSTS = 1024  # bytes that a batch takes in memory beside its payload
_CURSORS_ALONE = 0.05  # seconds until cursors are written that nothing else travels with
_TRY_AGAIN = 0.5  # seconds until what could not be written is tried again
_REOPEN = 1.0  # seconds until a journal that could not be opened is tried again
_SALVAGE_AGAIN = 60.0  # seconds between two repairs: a disk that breaks everything is not to be filled


@dataclass(slots=True)
class _Unit:
    """What one push puts into the journal: all of it or nothing."""

    done: asyncio.Future[None]
    rows: list[Row] = field(default_factory=list)
    answer: Answer | None = None
    size: int = 0
    events: int = 0


@dataclass(slots=True)
class _Aside:
    """What is to be written, but nobody waits for."""

    cursors: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[Identity, Sequence[Refusal]]] = field(default_factory=list)
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.cursors or self.refused or self.lost)

    def give_back(self, older: _Aside) -> None:
        """Add what could not be written."""
        for name, cursor in older.cursors.items():
            self.cursors[name] = max(cursor, self.cursors.get(name, 0))
        self.refused = older.refused + self.refused
        self.lost += older.lost


class DurableLog:
    """Keep batches in a journal on disk."""

    window = 4096

    def __init__(self, path: str, *, final: bool = True, formerly: Mapping[str, str] | None = None) -> None:
        self._name = Path(path)
        self._path = Path(os.path.realpath(path))
        self._owner = new_owner(self._name)
        self._final = final
        self._formerly = dict(formerly or {})
        self._orphans: tuple[OutletState, ...] = ()
        self._reserve = Reserve(self._path)
        self._names: tuple[str, ...] = ()
        self._lock: FileLock | None = None
        self._journal: Journal | None = None
        self._reader: Journal | None = None
        self._on_open: OnOpen = _ignore
        self._recovered = self._was_open = False
        self._salvaged = float("-inf")
        self._position = self._held = 0
        self._draft: list[Row] = []
        self._is_late = False  # the draft has positions that batches in the journal may have
        self._at_hand: OrderedDict[int, Batch] = OrderedDict()
        self._owners: dict[int, int] = {}
        self._at_hand_bytes = 0
        self._claimed: dict[str, OrderedDict[int, None]] = {}
        self._latest: dict[str, int] = {}
        self._damaged: set[int] = set()
        self._events = self._bytes = 0
        self._fault = ""
        self._commits = 0
        self._wake = threading.Condition()
        self._units: list[_Unit] = []
        self._aside = _Aside()
        self._must_mend = False
        self._taken_over: JournalLockedError | None = None
        self._failing = False  # the writer's own view of the fault, which it needs at once
        self._closing = False
        self._writing: asyncio.Future[None] | None = None
        # Daemon threads do the blocking work: a disk that hangs must not keep the process from ending.
        self._calls: concurrent.futures.Executor = DaemonExecutor("polku-journal-reader")

    async def open(self, outlets: Sequence[str], on_open: OnOpen) -> None:
        """Open the journal and start its writer.

        Raises `JournalLockedError` where another process has it and `JournalPathError` where there can be none.
        """
        self._loop = asyncio.get_running_loop()
        self._names, self._on_open = tuple(outlets), on_open
        self._claimed = {name: OrderedDict() for name in outlets}
        try:
            opened = await self._call(self._open)
        except Exception as error:
            if not isinstance(error, JournalError) or isinstance(error, (JournalLockedError, JournalPathError)):
                await self._call(self._release)
                raise
            self._say_fault(str(error))
        else:
            self._opened(*opened)
        self._writing = self._loop.create_future()
        threading.Thread(target=self._write_for_ever, name="polku-journal", daemon=True).start()

    async def put(self, batch: Batch, takers: Sequence[str]) -> Slot:
        """Give a batch its place; `commit` writes it."""
        self._position += 1
        self._draft.append(Row(self._position, tuple(takers), batch.header, batch.payload))
        size = self.weigh(batch)
        self._events += len(batch)
        self._bytes += size
        self._keep_at_hand(self._position, batch, len(takers))
        return Slot(self._position, len(batch), size)

    def commit(self, answer: Answer | None) -> asyncio.Future[None]:
        """Write what was put since the last commit, together with what else is to be written."""
        unit = _Unit(self._loop.create_future(), self._draft)
        self._draft = []
        unit.events = sum(row.header.events for row in unit.rows)
        unit.size = sum(weigh(len(row.payload)) for row in unit.rows)
        unit.answer = answer
        if self._is_late:
            self._is_late = False
            self._refuse([unit], self._opened_late())
            return unit.done
        with self._wake:
            if self._closing:
                unit.done.set_exception(JournalError(self._path, "was closed"))
                return unit.done
            self._units.append(unit)
            self._wake.notify()
        return unit.done

    def amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        """Add refusals to an answer that was written before they came."""
        with self._wake:
            self._aside.refused.append((identity, refused))

    async def fetch(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches, from memory where they are at hand, else from the disk."""
        found = {position: self._at_hand.get(position) for position in positions}
        missing = [position for position, batch in found.items() if batch is None]
        if missing:
            found.update(zip(missing, await self._call(lambda: self._read(missing)), strict=True))
            self._count_lost([position for position in missing if found[position] is None])
        return [found[position] for position in positions]

    async def next_slots(self, outlet: str, after: int, limit: int) -> list[Slot]:
        """Return the next places with batches for an outlet."""
        upto = self._held  # what is on disk beyond that is claimed in a moment by the one who put it there
        try:
            return await self._call(lambda: self._read_connection().slots(outlet, after, upto, limit))
        except JournalCorruptError:
            with self._wake:
                self._must_mend = True
                self._wake.notify()
            raise

    def claim(self, outlet: str, position: int) -> None:
        """Let an outlet begin with a batch."""
        self._claimed[outlet][position] = None
        self._latest[outlet] = position

    def let_go(self, outlet: str, position: int) -> None:
        """Move the outlet's cursor up to the first batch that it is not done with."""
        claimed = self._claimed[outlet]
        del claimed[position]
        cursor = next(iter(claimed)) - 1 if claimed else self._latest[outlet]
        self._forget(position)
        with self._wake:
            if cursor > self._aside.cursors.get(outlet, 0):
                self._aside.cursors[outlet] = cursor
                self._wake.notify()

    def weigh(self, batch: Batch) -> int:
        """Return the bytes that the batch takes on disk."""
        return weigh(batch.size)

    @property
    def size(self) -> tuple[int, int]:
        """The events and bytes that are held now, each once."""
        return self._events, self._bytes

    @property
    def fault(self) -> str:
        """Why nothing can be written now; empty where all is well."""
        return self._fault

    @property
    def orphans(self) -> tuple[OutletState, ...]:
        """The outlets with events in the journal for which there is no emitter."""
        return self._orphans

    @property
    def commits(self) -> int:
        """The number of transactions so far."""
        return self._commits

    async def close(self) -> None:
        """Write the last cursors and close the files."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._writing is not None:
            await self._writing
        await self._call(self._release)
        self._calls.shutdown(wait=False)

    def _open(self) -> tuple[Journal, Recovered, int, tuple[int, int]]:
        """Open the journal, or open it again; in the reader's thread."""
        damaged, self._must_mend = self._must_mend, False
        self._close_files(leave=False)
        self._take_lock()
        if self._was_open:
            self._check_still_ours()
        lately = time.monotonic() - self._salvaged < _SALVAGE_AGAIN
        if lately or not damaged:
            try:
                return self._open_journal()
            except JournalCorruptError as error:
                if lately:
                    raise
                check_ours(self._path)
                _LOG.error("%s; what can be read of it is served", error)
        self._salvaged = time.monotonic()
        _LOG.error("%s", salvage(self._path, owner=self._owner))
        return self._open_journal()

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        check_place(self._path)
        try:
            make_folder(self._path.parent)
            self._lock = FileLock(self._name)
        except OSError as error:
            raise as_journal_error(self._path, error) from error

    def _open_journal(self) -> tuple[Journal, Recovered, int, tuple[int, int]]:
        try:
            finish_salvage(self._path)
        except OSError as error:
            raise as_journal_error(self._path, error) from error
        assert self._lock is not None
        self._lock.hold_file()
        journal = Journal(self._path, lock=False, final=self._final, owner=self._owner)
        try:
            self._lock.hold_file()  # it may be new
            self._lock.confirm()
            journal.register(self._names, self._formerly)
            states = {state.name: state for state in journal.outlets()}
            total = journal.statistics()
            recovered = Recovered({name: states[name] for name in self._names}, journal.answers(), journal.takers)
            last = journal.last_position
        except BaseException:
            journal.close(leave=False)
            raise
        if not self._was_open:
            warn_of_place(self._path)
        self._was_open = True
        self._orphans = tuple(state for state in states.values() if state.orphaned and state.events)
        for orphan in self._orphans:
            _LOG.warning("journal %s: emitter %r: %s", self._path, orphan.name, describe_orphan(orphan, self._path))
        return journal, recovered, last, (total.events, total.bytes)

    def _check_still_ours(self) -> None:
        """Raise `JournalLockedError` where somebody has taken the journal over while this one had it open."""
        try:
            journal = Journal(self._path, writable=False)
        except JournalError:  # damaged: that is why it is opened again
            return
        try:
            owner = journal.owner()
        except sqlite3.Error:
            return
        finally:
            journal.close()
        if owner is None or owner.token != self._owner.token:
            pid, host = (str(owner.pid), owner.host) if owner else ("unknown", "another host")
            raise JournalLockedError(self._path, pid, host=host)

    def _close_files(self, *, leave: bool = True) -> None:
        for journal in (self._reader, self._journal):
            if journal is not None:
                journal.close(leave=leave)
        self._reader = self._journal = None

    def _release(self) -> None:
        self._close_files()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _opened(self, journal: Journal, recovered: Recovered, last: int, size: tuple[int, int]) -> None:
        self._journal, self._fault = journal, ""
        with self._wake:
            units, self._units = self._units, []
        self._refuse(units, self._opened_late())  # their positions may be those of batches in the journal
        self._events = size[0] + sum(row.header.events for row in self._draft)
        self._bytes = size[1] + sum(weigh(len(row.payload)) for row in self._draft)
        if self._recovered:
            return
        self._recovered = True
        self._is_late = bool(self._draft)
        for row in self._draft:
            self._forget(row.position, whole=True)
        self._position = self._held = max(self._position, last)
        self._latest = {name: state.cursor for name, state in recovered.outlets.items()}
        self._on_open(recovered)

    def _write_for_ever(self) -> None:
        """Be the writer's thread."""
        try:
            while True:
                units, aside, closing = self._next_work()
                try:
                    self._work_on(units, aside)
                except Exception as error:
                    _REPEATED.exception((self._path, "work"), "journal %s", self._path)
                    self._post(self._failed, units, JournalError(self._path, f"{type(error).__name__}: {error}"))
                if closing and not units:
                    return
        finally:
            assert self._writing is not None
            self._post(self._writing.set_result, None)

    def _work_on(self, units: list[_Unit], aside: _Aside) -> None:
        if self._taken_over is not None:
            self._post(self._refuse, units, self._taken_over)
            return
        if (self._journal is None or self._must_mend) and not self._reopen(units):
            self._keep(aside)
            return
        if self._journal is None:
            return
        if units or aside:
            self._write(self._journal, units, aside)
        elif self._failing:
            self._probe(self._journal)

    def _next_work(self) -> tuple[list[_Unit], _Aside, bool]:
        with self._wake:
            while not self._units and not self._closing and not self._must_mend:
                if not self._wake.wait(self._pause()) and self._pause() is not None:
                    break
            units, self._units = self._units, []
            aside, self._aside = self._aside, _Aside()
            return units, aside, self._closing

    def _pause(self) -> float | None:
        if self._taken_over is not None:
            return None
        if self._journal is None:
            return _REOPEN
        if self._aside:
            return _TRY_AGAIN if self._failing else _CURSORS_ALONE
        return _REOPEN if self._failing else None

    def _write(self, journal: Journal, units: list[_Unit], aside: _Aside) -> None:
        rows = [row for unit in units for row in unit.rows]
        answers = [unit.answer for unit in units if unit.answer is not None]
        try:
            if rows:
                self._reserve.take()
            freed = journal.write(Work(rows, answers, aside.cursors, aside.refused, aside.lost))
        except JournalError as error:
            self._failing = True
            self._must_mend |= isinstance(error, JournalCorruptError)
            self._post(self._failed, units, error)
            if isinstance(error, JournalLockedError):
                self._taken_over = error
                return
            if aside and not self._write_alone(journal, aside):
                self._keep(aside)
        else:
            self._failing = False
            self._post(self._written, units, *freed)
            if not units:
                self._give_back(journal)

    def _write_alone(self, journal: Journal, aside: _Aside) -> bool:
        """Write what makes room without the batches that found none, if need be with the room that was kept for it."""
        for last_room in (False, True):
            try:
                if last_room:
                    self._reserve.give_up()
                    journal.checkpoint()
                freed = journal.write(Work((), (), aside.cursors, aside.refused, aside.lost))
            except JournalError:
                continue
            self._post(self._freed, *freed)
            self._give_back(journal)
            return True
        return False

    def _keep(self, aside: _Aside) -> None:
        with self._wake:
            self._aside.give_back(aside)

    def _probe(self, journal: Journal) -> None:
        """Find out whether the journal can be written again."""
        try:
            self._reserve.take()
            journal.probe()
        except JournalError as error:
            self._must_mend |= isinstance(error, JournalCorruptError)
            self._taken_over = error if isinstance(error, JournalLockedError) else None
            self._post(self._say_fault, str(error))
        else:
            self._failing = False
            self._post(self._written, [], 0, 0)

    def _give_back(self, journal: Journal) -> None:
        """Let the file shrink a little while there is nothing better to do."""
        try:
            while journal.shrink():
                with self._wake:
                    if self._units or self._closing:
                        return
        except JournalError as error:
            _REPEATED.warning((self._path, "shrink"), "%s (while it was to be made smaller)", error)

    def _reopen(self, units: list[_Unit]) -> bool:
        """Try to open the journal again; those who wait for it are refused."""
        try:
            opened = self._calls.submit(self._open).result()
        except JournalError as error:
            if self._was_open and isinstance(error, JournalLockedError):
                self._taken_over = error
            self._post(self._failed, units, error)
            return False
        self._failing = False
        self._post(self._refuse, list(units), self._opened_late())
        units.clear()
        done = threading.Event()
        self._post(self._opened, *opened)
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

    def _written(self, units: list[_Unit], events: int, size: int) -> None:
        self._commits += 1
        if self._fault:
            _REPEATED.warning((self._path, "well"), "journal %s can be written again", self._path)
        self._fault = ""
        self._freed(events, size)
        for unit in units:
            if unit.rows:
                self._held = max(self._held, unit.rows[-1].position)
            if not unit.done.done():
                unit.done.set_result(None)

    def _freed(self, events: int, size: int) -> None:
        self._events -= events
        self._bytes -= size

    def _failed(self, units: list[_Unit], error: JournalError) -> None:
        self._say_fault(str(error))
        self._refuse(units, error)

    def _refuse(self, units: list[_Unit], error: JournalError) -> None:
        for unit in units:
            self._freed(unit.events, unit.size)
            for row in unit.rows:
                self._forget(row.position, whole=True)
            if not unit.done.done():
                unit.done.set_exception(error)

    def _opened_late(self) -> JournalError:
        return JournalError(self._path, "it was opened only now")

    def _say_fault(self, text: str) -> None:
        if text != self._fault:
            _REPEATED.error((self._path, "fault"), "%s", text)
        self._fault = text

    def _keep_at_hand(self, position: int, batch: Batch, owners: int) -> None:
        self._at_hand[position] = batch
        self._owners[position] = owners
        self._at_hand_bytes += batch.size + _BATCH_COSTS
        while self._at_hand_bytes > _AT_HAND and len(self._at_hand) > 1:
            self._forget(next(iter(self._at_hand)), whole=True)

    def _forget(self, position: int, *, whole: bool = False) -> None:
        """Keep a batch no longer at hand once no outlet needs it."""
        if position not in self._owners:
            return
        self._owners[position] -= 1
        if whole or self._owners[position] == 0:
            del self._owners[position]
            self._at_hand_bytes -= self._at_hand.pop(position).size + _BATCH_COSTS

    def _read_connection(self) -> Journal:
        if self._reader is None:
            self._reader = Journal(self._path, writable=False)
        return self._reader

    def _read(self, positions: Sequence[int]) -> list[Batch | None]:
        reader = self._read_connection()
        batches: list[Batch | None] = []
        for position in positions:
            try:
                batches.append(reader.read(position))
            except JournalCorruptError as error:
                _REPEATED.error((self._path, "damaged"), "%s", error)
                batches.append(None)
            except KeyError:
                _REPEATED.error(
                    (self._path, "gone"), "journal %s: the batch at position %d has gone", self._path, position
                )
                batches.append(None)
        return batches

    def _count_lost(self, positions: Sequence[int]) -> None:
        new = set(positions) - self._damaged
        if new:
            self._damaged |= new
            with self._wake:
                self._aside.lost += len(new)
                self._wake.notify()

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, work)


def _ignore(recovered: Recovered) -> None:
    """Be told of nothing."""
