"""Journals of lanes that are no more."""

from __future__ import annotations

from pathlib import Path

from polku.buffer.journal import Journal
from polku.errors import JournalError


def check_left(path: str, lanes: int) -> None:
    """Raise `JournalError` where a lane that the plan no longer has left events behind: nobody would deliver them."""
    first = Path(path)
    for journal in first.parent.glob(f"{first.name}.lane-*"):
        number = journal.name.rpartition("-")[2]
        if number.isdecimal() and int(number) > lanes and (events := _events(journal)):
            raise JournalError(
                journal,
                f"holds {events} events of lane {number}, and there are lanes={lanes} now; run with lanes({number}) "
                "until they are delivered",
            )


def _events(path: Path) -> int:
    journal = Journal(path, writable=False)
    try:
        return journal.statistics().events
    finally:
        journal.close()
