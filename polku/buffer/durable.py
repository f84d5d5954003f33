"""The log on disk: positions, cursors and what is held, over a journal and the thread that writes it.

Group commit: while one transaction is on its way to the disk, what arrives is collected, and goes with the next one
(see `log_writer`).

A disk that is full, or a path that cannot be written, costs what was to be written (its sender is refused) and nothing
else: the next transaction tries again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from polku.aio.threads import DaemonExecutor
from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Refusal
from polku.buffer.journal_file import weigh
from polku.buffer.journal_rows import Row
from polku.buffer.journal_session import JournalSession, Opened
from polku.buffer.log import OnOpen, Recovered
from polku.buffer.log_writer import LogWriter, WriteUnit, opened_late
from polku.buffer.positions import LogSlot, OutletState
from polku.buffer.recent import RecentBatches
from polku.buffer.remembered import StoredAnswer
from polku.errors import JournalCorruptError, JournalError, JournalLockedError, JournalPathError
from polku.log import RepeatedLog

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)


class DurableLog:
    """Keep batches in a journal on disk.

    All attributes are the event loop's; what the writer's thread tells it arrives there by `call_soon_threadsafe`.
    """

    window = 4096

    def __init__(self, path: str, *, final: bool = True, formerly: Mapping[str, str] | None = None) -> None:
        self._session = JournalSession(path, final=final, formerly=formerly)
        self._path = self._session.path
        # Daemon threads do the blocking work: a disk that hangs must not keep the process from ending.
        self._calls: concurrent.futures.Executor = DaemonExecutor("polku-journal-reader")
        self._writer = LogWriter(self._session, self._calls, self)
        self._on_open: OnOpen = _ignore
        self._recovered = False
        self._position = self._held = 0
        self._draft: list[Row] = []
        self._is_late = False  # the draft has positions that batches in the journal may have
        self._recent = RecentBatches()
        self._claimed: dict[str, OrderedDict[int, None]] = {}
        self._latest: dict[str, int] = {}
        self._damaged: set[int] = set()
        self._events = self._bytes = 0
        self._fault = ""
        self._commits = 0

    async def open(self, outlets: Sequence[str], on_open: OnOpen) -> None:
        """Open the journal and start its writer.

        Raises `JournalLockedError` where another process has it and `JournalPathError` where there can be none.
        """
        self._loop = asyncio.get_running_loop()
        self._on_open = on_open
        self._claimed = {name: OrderedDict() for name in outlets}
        try:
            opened = await self._call(lambda: self._session.open(outlets))
        except Exception as error:
            if not isinstance(error, JournalError) or isinstance(error, (JournalLockedError, JournalPathError)):
                await self._call(self._session.release)
                raise
            self.on_fault(str(error))
        else:
            self.on_opened(opened)
        self._writer.start(outlets)

    async def arrange(self, outlets: Sequence[str], renamed: Mapping[str, str]) -> None:
        """Have these outlets from now on, in the journal first; raises `JournalError`, and then all is as it was."""
        await self._writer.arrange(outlets, renamed)
        await self._call(self._session.reopen_reader)
        for new, old in renamed.items():
            claimed = self._claimed[new] = self._claimed.pop(old)
            if old in self._latest:
                self._latest[new] = self._latest.pop(old)
                # What was released meanwhile went by the old name, which the journal knows no more.
                self._writer.move_cursor(new, next(iter(claimed)) - 1 if claimed else self._latest[new])
        for name in outlets:
            self._claimed.setdefault(name, OrderedDict())

    async def forget(self, outlet: str) -> None:
        """Have an outlet no more."""
        await self._writer.arrange([name for name in self._claimed if name != outlet], {}, forgotten=outlet)
        await self._call(self._session.reopen_reader)
        self._claimed.pop(outlet, None)
        self._latest.pop(outlet, None)

    async def put(self, batch: Batch, takers: Sequence[str]) -> LogSlot:
        """Give a batch its place; `commit` writes it."""
        self._position += 1
        self._draft.append(Row(self._position, tuple(takers), batch.header, batch.payload))
        size = self.weigh(batch)
        self._events += len(batch)
        self._bytes += size
        self._recent.keep(self._position, batch, len(takers))
        return LogSlot(self._position, len(batch), size, batch.enqueued_ns)

    def commit(self, answer: StoredAnswer | None) -> asyncio.Future[None]:
        """Write what was put since the last commit, together with what else is to be written."""
        unit = WriteUnit(self._loop.create_future(), self._draft, answer)
        self._draft = []
        unit.events = sum(row.header.events for row in unit.rows)
        unit.size = sum(weigh(len(row.payload)) for row in unit.rows)
        if self._is_late:
            self._is_late = False
            self.on_refused([unit], opened_late(self._session))
        else:
            self._writer.add(unit)
        return unit.done

    def amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        """Add refusals to an answer that was written before they came."""
        self._writer.amend(identity, refused)

    async def fetch(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches, from memory where they are at hand, else from the disk."""
        found = {position: self._recent.get(position) for position in positions}
        missing = [position for position, batch in found.items() if batch is None]
        if missing:
            found.update(zip(missing, await self._call(lambda: self._session.read(missing)), strict=True))
            self._count_lost([position for position in missing if found[position] is None])
        return [found[position] for position in positions]

    async def peek(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches, None where one is damaged or has been released."""
        found = {position: self._recent.get(position) for position in positions}
        missing = [position for position, batch in found.items() if batch is None]
        if missing:
            found.update(zip(missing, await self._call(lambda: self._session.peek(missing)), strict=True))
        return [found[position] for position in positions]

    async def next_slots(self, outlet: str, after: int, limit: int) -> list[LogSlot]:
        """Return the next places with batches for an outlet."""
        upto = self._held  # what is on disk beyond that is claimed in a moment by the one who put it there
        try:
            return await self._call(lambda: self._session.reader().slots(outlet, after, upto, limit))
        except JournalCorruptError:
            self._writer.repair()
            raise

    def claim(self, outlet: str, position: int) -> None:
        """Let an outlet begin with a batch."""
        self._claimed[outlet][position] = None
        self._latest[outlet] = position

    def release(self, outlet: str, position: int) -> None:
        """Move the outlet's cursor up to the first batch that it is not done with."""
        claimed = self._claimed[outlet]
        del claimed[position]
        cursor = next(iter(claimed)) - 1 if claimed else self._latest[outlet]
        self._recent.release(position)
        self._writer.move_cursor(outlet, cursor)

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
        return self._session.orphans

    @property
    def commits(self) -> int:
        """The number of transactions so far."""
        return self._commits

    async def close(self) -> None:
        """Write the last cursors and close the files."""
        await self._writer.close()
        await self._call(self._session.release)
        self._calls.shutdown(wait=False)

    def on_opened(self, opened: Opened) -> None:
        """Take over what the journal holds, the first time that it is open."""
        self._fault = ""
        self.on_refused(self._writer.take_back(), opened_late(self._session))
        self._events = opened.events + sum(row.header.events for row in self._draft)
        self._bytes = opened.bytes + sum(weigh(len(row.payload)) for row in self._draft)
        if self._recovered:
            return
        self._recovered = True
        self._is_late = bool(self._draft)
        for row in self._draft:
            self._recent.forget(row.position)
        self._position = self._held = max(self._position, opened.last)
        self._latest = {name: state.cursor for name, state in opened.recovered.outlets.items()}
        self._on_open(opened.recovered)

    def on_written(self, units: Sequence[WriteUnit], events: int, size: int) -> None:
        """Answer who waits for what is on disk now, of which `events` of `size` bytes have left."""
        self._commits += 1
        if self._fault:
            _REPEATED.warning((self._path, "well"), "journal %s can be written again", self._path)
        self._fault = ""
        self.on_freed(events, size)
        for unit in units:
            if unit.rows:
                self._held = max(self._held, unit.rows[-1].position)
            if not unit.done.done():
                unit.done.set_result(None)

    def on_freed(self, events: int, size: int) -> None:
        """Count what has left the journal."""
        self._events -= events
        self._bytes -= size

    def on_failed(self, units: Sequence[WriteUnit], error: JournalError) -> None:
        """Refuse what could not be written, and say why nothing can be now."""
        self.on_fault(str(error))
        self.on_refused(units, error)

    def on_refused(self, units: Sequence[WriteUnit], error: JournalError) -> None:
        """Refuse what is not written."""
        for unit in units:
            self.on_freed(unit.events, unit.size)
            for row in unit.rows:
                self._recent.forget(row.position)
            if not unit.done.done():
                unit.done.set_exception(error)

    def on_fault(self, text: str) -> None:
        """Say why nothing can be written now."""
        if text != self._fault:
            _REPEATED.error((self._path, "fault"), "%s", text)
        self._fault = text

    def _count_lost(self, positions: Sequence[int]) -> None:
        new = set(positions) - self._damaged
        if new:
            self._damaged |= new
            self._writer.count_lost(len(new))

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, work)


def _ignore(recovered: Recovered) -> None:
    """Be told of nothing."""
