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
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from polku.batch import Batch, Identity
from polku.buffer.entry import Answer, Slot
from polku.buffer.journal import Journal, Row, Work, weigh
from polku.buffer.log import OnOpen, Recovered
from polku.buffer.repair import salvage
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from polku.receipt import Refusal

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_AT_HAND = 16 * 1024 * 1024  # bytes of the latest batches that are not read from the disk again
_CURSORS_ALONE = 0.05  # seconds until cursors are written that nothing else travels with
_TRY_AGAIN = 0.5  # seconds until cursors are written again that could not be
_REOPEN = 1.0  # seconds until a journal that could not be opened is tried again


@dataclass(slots=True)
class _Unit:
    """What one push puts into the journal: all of it or nothing."""

    done: asyncio.Future[None]
    rows: list[Row] = field(default_factory=list)
    answer: Answer | None = None
    size: int = 0
    events: int = 0


class DurableLog:
    """Keep batches in a journal on disk."""

    window = 4096

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: tuple[str, ...] = ()
        self._journal: Journal | None = None
        self._reader: Journal | None = None
        self._on_open: OnOpen = _ignore
        self._position = 0
        self._draft: list[Row] = []
        self._at_hand: OrderedDict[int, Batch] = OrderedDict()
        self._owners: dict[int, int] = {}
        self._at_hand_bytes = 0
        self._claimed: dict[str, OrderedDict[int, None]] = {}
        self._latest: dict[str, int] = {}
        self._events = self._bytes = 0
        self._fault = ""
        self._commits = 0
        self._wake = threading.Condition()
        self._units: list[_Unit] = []
        self._cursors: dict[str, int] = {}
        self._closing = False
        self._writer: threading.Thread | None = None
        # Daemon threads do the blocking work: a disk that hangs must not keep the process from ending.
        self._calls: concurrent.futures.Executor = _DaemonExecutor("polku-journal-reader")

    async def open(self, outlets: Sequence[str], on_open: OnOpen) -> None:
        """Open the journal and start its writer; raises `JournalLockedError` where another process has it."""
        self._loop = asyncio.get_running_loop()
        self._names, self._on_open = tuple(outlets), on_open
        self._claimed = {name: OrderedDict() for name in outlets}
        try:
            opened = await self._call(self._open)
        except JournalLockedError:
            raise
        except JournalError as error:
            self._say_fault(str(error))
        else:
            self._opened(*opened)
        self._writer = threading.Thread(target=self._write_for_ever, name="polku-journal", daemon=True)
        self._writer.start()

    async def put(self, batch: Batch, takers: Sequence[str]) -> Slot:
        """Give a batch its place; `commit` writes it."""
        self._position += 1
        self._draft.append(Row(self._position, tuple(takers), batch.header, batch.payload))
        size = self.weigh(batch)
        self._events += len(batch)
        self._bytes += size
        self._keep_at_hand(self._position, batch, len(takers))
        return Slot(self._position, len(batch), size)

    def commit(self, identity: Identity | None, refused: Sequence[Refusal]) -> asyncio.Future[None]:
        """Write what was put since the last commit, together with what else is to be written."""
        unit = _Unit(self._loop.create_future(), self._draft)
        self._draft = []
        unit.events = sum(row.header.events for row in unit.rows)
        unit.size = sum(weigh(len(row.payload)) for row in unit.rows)
        if identity is not None:
            first, last = (unit.rows[0].position, unit.rows[-1].position) if unit.rows else (1, 0)
            unit.answer = Answer(identity, first, last, tuple(refused))
        with self._wake:
            self._units.append(unit)
            self._wake.notify()
        return unit.done

    async def get(self, position: int) -> Batch:
        """Return a batch, from memory where it is at hand, else from the disk."""
        batch = self._at_hand.get(position)
        if batch is not None:
            return batch
        return await self._call(lambda: self._read_connection().read(position))

    async def next_slots(self, outlet: str, after: int, limit: int) -> list[Slot]:
        """Return the next places with batches for an outlet."""
        return await self._call(lambda: self._read_connection().slots(outlet, after, limit))

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
            if cursor > self._cursors.get(outlet, 0):
                self._cursors[outlet] = cursor
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
    def commits(self) -> int:
        """The number of transactions so far."""
        return self._commits

    async def close(self) -> None:
        """Write the last cursors and close the files."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._writer is not None:
            await self._call(self._writer.join)
        for journal in (self._reader, self._journal):
            if journal is not None:
                await self._call(journal.close)
        self._calls.shutdown(wait=False)

    def _open(self) -> tuple[Journal, Recovered, int, tuple[int, int]]:
        try:
            journal = Journal(self._path)
        except JournalCorruptError as error:
            _LOG.error("%s; what can be read of it is served", error)
            _LOG.error("%s", salvage(self._path))
            journal = Journal(self._path)
        journal.register(self._names)
        states = {state.name: state for state in journal.outlets()}
        for name in states.keys() - set(self._names):
            if states[name].events:
                _LOG.warning(
                    "journal %s holds %d events for %r, which is no emitter now; "
                    "`polku journal repair %s --forget %s` lets go of them",
                    *(self._path, states[name].events, name, self._path, name),
                )
        total = journal.statistics()
        recovered = Recovered({name: states[name] for name in self._names}, journal.answers(), journal.takers)
        return journal, recovered, journal.last_position, (total.events, total.bytes)

    def _opened(self, journal: Journal, recovered: Recovered, last: int, size: tuple[int, int]) -> None:
        self._journal, self._fault = journal, ""
        self._position = max(self._position, last)
        self._events += size[0]
        self._bytes += size[1]
        self._latest = {name: state.cursor for name, state in recovered.outlets.items()}
        self._on_open(recovered)

    def _write_for_ever(self) -> None:
        """Be the writer's thread."""
        while True:
            units, cursors, closing = self._next_work()
            if self._journal is None and not self._reopen(units):
                if closing:
                    return
                continue
            if units or cursors:
                self._write(units, cursors)
            if closing and not units:
                return

    def _next_work(self) -> tuple[list[_Unit], dict[str, int], bool]:
        with self._wake:
            while not self._units and not self._closing:
                if not self._wake.wait(self._pause()) and (self._cursors or self._journal is None):
                    break
            units, self._units = self._units, []
            cursors, self._cursors = self._cursors, {}
            return units, cursors, self._closing

    def _pause(self) -> float | None:
        if self._journal is None:
            return _REOPEN
        if self._cursors:
            return _TRY_AGAIN if self._fault else _CURSORS_ALONE
        return None

    def _write(self, units: list[_Unit], cursors: dict[str, int]) -> None:
        journal = self._journal
        assert journal is not None
        rows = [row for unit in units for row in unit.rows]
        answers = [unit.answer for unit in units if unit.answer is not None]
        try:
            freed = journal.write(Work(rows, answers, cursors))
        except JournalError as error:
            self._post(self._failed, units, error)
            if units and cursors and self._write_alone(journal, cursors):
                return
            with self._wake:
                for name, cursor in cursors.items():
                    self._cursors[name] = max(cursor, self._cursors.get(name, 0))
        else:
            self._post(self._written, units, *freed)
            if not units:
                self._give_back(journal)

    def _write_alone(self, journal: Journal, cursors: dict[str, int]) -> bool:
        """Write cursors without the batches that found no room: they make some."""
        try:
            freed = journal.write(Work((), (), cursors))
        except JournalError:
            return False
        self._post(self._freed, *freed)
        return True

    def _give_back(self, journal: Journal) -> None:
        """Let the file shrink a little while there is nothing better to do."""
        while journal.shrink():
            with self._wake:
                if self._units or self._closing:
                    return

    def _reopen(self, units: list[_Unit]) -> bool:
        """Try to open the journal again; where that fails, those who wait for it are refused."""
        try:
            opened = self._open()
        except JournalError as error:
            self._post(self._failed, units, error)
            return False
        # Positions were given while the journal was closed: they must not meet those that it holds.
        late = JournalError(self._path, "it was opened only now")
        self._post(self._failed, units, late)
        done = threading.Event()
        self._post(self._opened, *opened)
        self._post(done.set)
        done.wait(5.0)
        with self._wake:
            units, self._units = self._units, []
        self._post(self._failed, units, late)
        return True

    def _post(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _written(self, units: list[_Unit], events: int, size: int) -> None:
        self._commits += 1
        if self._fault:
            _LOG.warning("journal %s can be written again", self._path)
        self._fault = ""
        self._freed(events, size)
        for unit in units:
            if not unit.done.done():
                unit.done.set_result(None)

    def _freed(self, events: int, size: int) -> None:
        self._events -= events
        self._bytes -= size

    def _failed(self, units: list[_Unit], error: JournalError) -> None:
        self._say_fault(str(error))
        for unit in units:
            self._freed(unit.events, unit.size)
            for row in unit.rows:
                self._forget(row.position, whole=True)
            if not unit.done.done():
                unit.done.set_exception(error)

    def _say_fault(self, text: str) -> None:
        if text != self._fault:
            _LOG.error("%s", text)
        self._fault = text

    def _keep_at_hand(self, position: int, batch: Batch, owners: int) -> None:
        self._at_hand[position] = batch
        self._owners[position] = owners
        self._at_hand_bytes += batch.size
        # What is not written yet stays, whatever its size: the window of the links bounds it.
        while self._at_hand_bytes > _AT_HAND and len(self._at_hand) > 64:
            self._forget(next(iter(self._at_hand)), whole=True)

    def _forget(self, position: int, *, whole: bool = False) -> None:
        """Keep a batch no longer at hand once no outlet needs it."""
        if position not in self._owners:
            return
        self._owners[position] -= 1
        if whole or self._owners[position] == 0:
            del self._owners[position]
            self._at_hand_bytes -= self._at_hand.pop(position).size

    def _read_connection(self) -> Journal:
        if self._reader is None:
            self._reader = Journal(self._path, writable=False)
        return self._reader

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, work)


class _DaemonExecutor(concurrent.futures.Executor):
    """Run calls one after the other on a thread that does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._wake = threading.Condition()
        self._work: list[tuple[concurrent.futures.Future[object], Callable[[], object]]] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> concurrent.futures.Future[T]:
        """Queue a call."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._wake:
            self._work.append((future, lambda: fn(*args, **kwargs)))  # type: ignore[arg-type]
            self._wake.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after what is queued."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._work and not self._stopped:
                    self._wake.wait()
                if not self._work:
                    return
                future, call = self._work.pop(0)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def _ignore(recovered: Recovered) -> None:
    """Be told of nothing."""
