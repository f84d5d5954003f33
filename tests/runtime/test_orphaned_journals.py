"""Lanes that are no more: only their journals count, whatever else has a name that begins like theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku.batch.batch import Header, Identity
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.repair import salvage
from polku.errors import JournalError
from polku.runtime.orphaned_journals import check_left


def fill(path: Path, events: int = 3) -> None:
    journal = Journal(path)
    journal.register(["a"])
    header = Header(1, Identity("link", 1, 1), None, 5, "")
    journal.write(Transaction([Row(position, ("a",), header, b"x") for position in range(1, events + 1)]))
    journal.close()


@pytest.fixture(params=["journal.db", "[j]ournal*.db"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_a_lane_that_left_events_behind_is_named(path: Path) -> None:
    fill(path)
    fill(Path(f"{path}.lane-2"))
    fill(Path(f"{path}.lane-12"))
    check_left(str(path), lanes=12)
    with pytest.raises(JournalError, match=r"lane-12: holds 3 events of lane 12, and there are lanes=2 now"):
        check_left(str(path), lanes=2)


def test_what_a_repair_left_is_no_lane(path: Path) -> None:
    lane = Path(f"{path}.lane-2")
    fill(path)
    fill(lane)
    for journal in (path, lane):
        left = salvage(journal).old
        assert left.startswith(f"{journal}.damaged-")
        assert Path(left).exists()
    check_left(str(path), lanes=2)


def test_neither_is_any_other_file_beside_a_lane(path: Path) -> None:
    fill(path)
    for name in (
        ".lane-3.repairing",
        ".lane-3.repaired",
        ".lane-3.reserve",
        ".lane-3-wal",
        ".lane-03",
        ".lane-3.lane-4",
    ):
        fill(Path(f"{path}{name}"))
    check_left(str(path), lanes=1)


def test_a_folder_that_is_not_there_has_no_lanes(tmp_path: Path) -> None:
    check_left(str(tmp_path / "missing" / "journal.db"), lanes=1)
    check_left("/dev/null/journal.db", lanes=1)
