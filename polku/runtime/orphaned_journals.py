"""The journals of lanes: where those of a plan are to be, and those that are no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from polku.buffer.journal_reader import JournalReader
from polku.buffer.place import check_letters_place, check_place
from polku.errors import JournalError
from polku.plan import Plan, lane_path

_LANE = re.compile(r"\.lane-([1-9][0-9]*)")


def check_left(path: str, lanes: int) -> None:
    """Raise `JournalError` where a lane that the plan no longer has left events behind: nobody would deliver them."""
    for number, journal in sorted(_journals(Path(path))):
        if number > lanes and (events := _events(journal)):
            raise JournalError(
                journal,
                f"holds {events} events of lane {number}, and there are lanes={lanes} now; run with lanes({number}) "
                "until they are delivered",
            )


def check_places(plan: Plan) -> None:
    """Raise `JournalPathError` where a lane's journal, or the dead letters, can never be."""
    for number in range(1, plan.lanes + 1) if plan.buffer.path else ():
        check_place(Path(lane_path(plan.buffer.path, number)))
    if plan.dead_letters is not None:
        check_letters_place(Path(plan.dead_letters.path))


def _journals(first: Path) -> Iterator[tuple[int, Path]]:
    """Yield the lanes' journals with their numbers: not what a repair left, nor their logs, locks or dead letters."""
    for file in first.parent.iterdir() if first.parent.is_dir() else ():
        if file.name.startswith(first.name) and (lane := _LANE.fullmatch(file.name.removeprefix(first.name))):
            yield int(lane[1]), file


def _events(path: Path) -> int:
    journal = JournalReader(path)
    try:
        return journal.statistics().events
    finally:
        journal.close()
