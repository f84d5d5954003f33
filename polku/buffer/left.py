"""Journals of lanes that are no more."""

from __future__ import annotations

from pathlib import Path

from polku.buffer.journal import Journal
from polku.buffer.lock import FileLock
from polku.errors import JournalError, JournalLockedError


def check_left(path: str, lanes: int) -> None:
    """Raise `JournalError` where a lane that the plan no longer has left events behind: nobody would deliver them.

    A journal that a process has open is none of these.
    """
    first = Path(path)
    for journal in first.parent.glob(f"{first.name}.lane-*"):
        number = journal.name.rpartition("-")[2]
        if number.isdecimal() and int(number) > lanes and (events := _left_in(journal)):
            raise JournalError(
                journal,
                f"holds {events} events of lane {number}, and there are lanes={lanes} here now; "
                f"run with lanes({number}) until they are delivered",
            )


def _left_in(path: Path) -> int:
    try:
        lock = FileLock(path)
    except JournalLockedError:
        return 0
    try:
        journal = Journal(path, writable=False)
        try:
            return journal.statistics().events
        finally:
            journal.close()
    finally:
        lock.release()
