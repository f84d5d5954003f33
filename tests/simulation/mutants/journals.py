"""Faults of the journal, of its repair and of the file of dead letters: found in cases that have the real ones.

Not among them: that folders are not synced. SQLite syncs a folder with the first sync of each new log in it, before
anything is acknowledged, and the names on the simulated disk change in their order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.simulation.mutants.faults import mutant, replaced


@mutant("j1", "a batch is acknowledged before its commit")
def early() -> Iterator[None]:
    from polku.buffer.log_writer import LogWriter

    write = LogWriter._write

    def written_first(self: Any, journal: Any, units: Any, deferred: Any) -> None:
        self._post(self._written.on_written, units, 0, 0)
        write(self, journal, units, deferred)

    with replaced(LogWriter, "_write", written_first):
        yield


@mutant("j2", "a batch whose commit failed is acknowledged")
def failed_is_written() -> Iterator[None]:
    from polku.buffer.durable import DurableLog

    with replaced(DurableLog, "on_failed", lambda self, units, error: self.on_written(units, 0, 0)):
        yield


def _synchronous(level: str) -> Iterator[None]:
    from polku.buffer import journal_file

    prepare = journal_file._prepare

    def weakly(db: Any, path: Any) -> None:
        prepare(db, path)
        db.execute(f"PRAGMA synchronous={level}")

    with replaced(journal_file, "_prepare", weakly):
        yield


@mutant("j3", "synchronous=OFF: nothing is synced")
def off() -> Iterator[None]:
    yield from _synchronous("OFF")


@mutant("j4", "synchronous=NORMAL: the log is synced before a checkpoint only")
def normal() -> Iterator[None]:
    yield from _synchronous("NORMAL")


@mutant("j5", "the write-ahead log of a process that died is thrown away")
def no_recovery() -> Iterator[None]:
    from polku.buffer import journal_file

    open_file = journal_file.open_file

    def begin_again(path: Path, *, writable: bool) -> Any:
        if writable:
            with contextlib.suppress(OSError):
                Path(f"{path}-wal").unlink()
        return open_file(path, writable=writable)

    with replaced(journal_file, "open_file", begin_again):
        yield


@mutant("j6", "cursors are not in the transaction")
def no_cursors() -> Iterator[None]:
    from polku.buffer.journal import Journal

    entries = Journal._entries

    with replaced(Journal, "_entries", lambda self, work, cursors: entries(self, work, self._cursors)):
        yield


@mutant("j7", "a batch is in one transaction and its answer in the next")
def answers_apart() -> Iterator[None]:
    from polku.buffer.journal import Journal

    write = Journal.write

    def twice(self: Any, work: Any) -> Any:
        if not (work.rows and work.answers):
            return write(self, work)
        freed = write(self, work._replace(answers=()))
        again = write(self, work._replace(rows=(), cursors={}, refused=(), lost=0))
        return freed[0] + again[0], freed[1] + again[1]

    with replaced(Journal, "write", twice):
        yield


@mutant("j8", "a commit does not look at the owner")
def any_owner() -> Iterator[None]:
    from polku.buffer.journal import Journal
    from polku.buffer.journal_file import OWNER

    entries = Journal._entries

    def without(self: Any, work: Any, cursors: Any) -> Any:
        return (entry for entry in entries(self, work, cursors) if entry[0] != OWNER)

    with replaced(Journal, "_entries", without):
        yield


@mutant("j9", "positions begin again behind the batches that are still there")
def positions_again() -> Iterator[None]:
    from polku.buffer.journal import Journal

    def last(self: Any) -> int:
        return int(self._db.execute("SELECT coalesce(max(position), 0) FROM batch").fetchone()[0])

    with replaced(Journal, "last_position", property(last)):
        yield


@mutant("j10", "what one outlet has passed is swept out, whoever else waits for it")
def swept_early() -> Iterator[None]:
    from polku.buffer.journal import Journal

    sweep = Journal._sweep

    def all_of_it(self: Any, swept: Any, cursors: Any) -> Any:
        most = max(cursors.values(), default=0)
        return sweep(self, swept, dict.fromkeys(cursors, most))

    with replaced(Journal, "_sweep", all_of_it):
        yield


@mutant("j11", "a repair forgets the answers")
def repair_forgets() -> Iterator[None]:
    from polku.buffer import repair

    with replaced(repair, "read_answers", lambda db: []):
        yield


@mutant("j12", "a repair puts the new file in its place before it is on disk")
def repair_unsynced() -> Iterator[None]:
    from polku.buffer import repair
    from polku.buffer.journal import Journal

    class Unsynced(Journal):
        def __init__(self, path: Any, **options: Any) -> None:
            super().__init__(path, **options)
            self._db.execute("PRAGMA synchronous=OFF")

    with replaced(repair, "Journal", Unsynced):
        yield


@mutant("j13", "dead letters are not synced")
def letters_unsynced() -> Iterator[None]:
    from polku.dead_letters import schema

    prepare = schema.prepare

    def weakly(db: Any, path: Path) -> None:
        prepare(db, path)
        db.execute("PRAGMA synchronous=OFF")

    with replaced(schema, "prepare", weakly):
        yield


@mutant("j14", "a commit that fails is not said in health")
def no_fault() -> Iterator[None]:
    from polku.buffer.durable import DurableLog

    with replaced(DurableLog, "on_fault", lambda self, text: None):
        yield
