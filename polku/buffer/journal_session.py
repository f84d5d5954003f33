"""A journal as one process has it: locked, opened, opened again after damage, and repaired where that is needed."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from polku.batch.batch import Batch
from polku.buffer.journal import Journal
from polku.buffer.journal_reader import JournalReader
from polku.buffer.lock import FileLock
from polku.buffer.log import Recovered
from polku.buffer.owner import new_owner
from polku.buffer.place import check_ours, check_place, warn_of_place
from polku.buffer.positions import OutletState, describe_orphan
from polku.buffer.repair import finish_salvage, salvage
from polku.disk import make_folder
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from polku.log import RepeatedLog
from polku.sqlite import as_journal_error

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_SALVAGE_AGAIN = 60.0  # seconds between two repairs: a disk that breaks everything is not to be filled


class Opened(NamedTuple):
    """What a journal held when it was opened: `last` is its highest position, `events` and `bytes` what waits in it."""

    journal: Journal
    recovered: Recovered
    last: int
    events: int
    bytes: int


class JournalSession:
    """Open a journal and keep others from it; every method blocks, and is called by one thread: the reader's."""

    def __init__(self, path: str, *, final: bool, formerly: Mapping[str, str] | None) -> None:
        self.path = Path(os.path.realpath(path))
        self.orphans: tuple[OutletState, ...] = ()
        self.was_open = False
        self.lock: FileLock | None = None
        self.journal: Journal | None = None
        self._name = Path(path)
        self._owner = new_owner(self._name)
        self._final = final
        self._formerly = dict(formerly or {})
        self._reader: JournalReader | None = None
        self._salvaged = float("-inf")

    def open(self, outlets: Sequence[str], *, damaged: bool = False) -> Opened:
        """Open the journal, or open it again; with `damaged` a repair comes first, if none was made lately.

        Raises `JournalError`.
        """
        self._close_files(leave=False)
        self._take_lock()
        if self.was_open:
            self._check_still_ours()
        lately = time.monotonic() - self._salvaged < _SALVAGE_AGAIN
        if lately or not damaged:
            try:
                return self._open_journal(outlets)
            except JournalCorruptError as error:
                if lately:
                    raise
                check_ours(self.path)
                _LOG.error("%s; what can be read of it is served", error)
        self._salvaged = time.monotonic()
        _LOG.error("%s", salvage(self.path, owner=self._owner))
        return self._open_journal(outlets)

    def reader(self) -> JournalReader:
        """Return a connection that only reads."""
        if self._reader is None:
            self._reader = JournalReader(self.path)
        return self._reader

    def reopen_reader(self) -> None:
        """Have the next reader know the outlets of now."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def read(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches from the disk, None for each that cannot be read; raises `JournalError` for what may pass."""
        reader = self.reader()
        batches: list[Batch | None] = []
        for position in positions:
            try:
                batches.append(reader.read(position))
            except JournalCorruptError as error:
                _REPEATED.error((self.path, "damaged"), "%s", error)
                batches.append(None)
            except KeyError:
                _REPEATED.error(
                    (self.path, "gone"), "journal %s: the batch at position %d has gone", self.path, position
                )
                batches.append(None)
        return batches

    def peek(self, positions: Sequence[int]) -> list[Batch | None]:
        """Return batches from the disk, None for each that is not there, or cannot be read."""
        batches: list[Batch | None] = []
        for position in positions:
            try:
                batches.append(self.reader().read(position))
            except (JournalCorruptError, KeyError):
                batches.append(None)
        return batches

    def release(self) -> None:
        """Close the files and let others have the journal."""
        self._close_files()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def _take_lock(self) -> None:
        if self.lock is not None:
            return
        check_place(self.path)
        try:
            make_folder(self.path.parent)
            self.lock = FileLock(self._name)
        except OSError as error:
            raise as_journal_error(self.path, error) from error

    def _open_journal(self, outlets: Sequence[str]) -> Opened:
        try:
            finish_salvage(self.path)
        except OSError as error:
            raise as_journal_error(self.path, error) from error
        assert self.lock is not None
        self.lock.hold_file()
        journal = Journal(self.path, lock=False, final=self._final, owner=self._owner)
        try:
            self.lock.hold_file()  # it may be new
            self.lock.confirm()
            journal.register(outlets, self._formerly)
            states = {state.name: state for state in journal.outlets()}
            total = journal.statistics()
            recovered = Recovered({name: states[name] for name in outlets}, journal.answers(), journal.takers)
            last = journal.last_position
        except BaseException:
            journal.close(leave=False)
            raise
        if not self.was_open:
            warn_of_place(self.path)
        self.was_open = True
        self.orphans = tuple(state for state in states.values() if state.orphaned and state.events)
        for orphan in self.orphans:
            _LOG.warning("journal %s: emitter %r: %s", self.path, orphan.name, describe_orphan(orphan, self.path))
        self.journal = journal
        return Opened(journal, recovered, last, total.events, total.bytes)

    def _check_still_ours(self) -> None:
        """Raise `JournalLockedError` where somebody has taken the journal over while this one had it open."""
        try:
            journal = JournalReader(self.path)
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
            raise JournalLockedError(self.path, pid, host=host)

    def _close_files(self, *, leave: bool = True) -> None:
        if self._reader is not None:
            self._reader.close()
        if self.journal is not None:
            self.journal.close(leave=leave)
        self._reader = self.journal = None
