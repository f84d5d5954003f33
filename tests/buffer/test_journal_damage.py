"""What is damaged in a journal is found, named and passed over; what is no journal is left alone."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Transaction
from polku.buffer.lock import holder
from polku.buffer.repair import faults, finish_salvage, salvage
from polku.buffer.schema import VERSION
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from tests.buffer.journals import opened, positions, row, write_sample


def test_a_second_process_is_told_who_has_the_journal(tmp_path: Path) -> None:
    assert holder(tmp_path / "j") == ""
    with opened(tmp_path / "j"):
        assert holder(tmp_path / "j") == str(os.getpid())
        with pytest.raises(JournalLockedError, match=f"process {os.getpid()} has it open"):
            Journal(tmp_path / "j")
        with pytest.raises(JournalLockedError):
            salvage(tmp_path / "j")
    assert holder(tmp_path / "j") == ""


def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    with opened(tmp_path / "j", "a") as journal:
        journal.write(Transaction([row(1, "a")]))


def test_another_format_and_another_programs_file_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "newer"):
        pass
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JournalError, match=rf"newer version of POLKU \(format 99, ours {VERSION}\)"):
        Journal(tmp_path / "newer")
    with sqlite3.connect(tmp_path / "theirs") as db:
        db.execute("CREATE TABLE users(name)")
    db.close()
    with pytest.raises(JournalError, match="is not a journal"):
        Journal(tmp_path / "theirs")
    with sqlite3.connect(tmp_path / "theirs") as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    db.close()


def flip(path: Path, seed: int, count: int = 40) -> None:
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(count):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def wipe_pages(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * 32 * 1024)
            file.write(os.urandom(32 * 1024))


def cut(path: Path, part: float) -> None:
    os.truncate(path, int(path.stat().st_size * part))


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"flipped bits {seed}": lambda path, seed=seed: flip(path, seed) for seed in range(6)},  # type: ignore[misc]
    "three pages overwritten": lambda path: wipe_pages(path, 8, 9, 15),
    "cut in half": lambda path: cut(path, 0.5),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "the first page overwritten": lambda path: wipe_pages(path, 0),
    "garbage": lambda path: path.write_bytes(os.urandom(100_000)),
    "text": lambda path: path.write_text("this is no journal\n" * 100),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_can_be_read_of_a_damaged_journal_is_kept_and_the_rest_is_named(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    write_sample(path)
    before = path.read_bytes()
    damage(path)
    damaged = path.read_bytes()
    list(faults(path))
    result = salvage(path)
    assert Path(result.old).read_bytes() == damaged != before
    assert list(faults(path)) == []
    with opened(path, "a", "b") as journal:
        kept = positions(journal)
        assert len(kept) == result.kept
        for position in kept:
            assert journal.read(position).payload == row(position, size=2_000).payload
        statistics = journal.statistics()
        assert statistics.lost_batches == result.lost
        assert {state.name for state in statistics.outlets} == {"a", "b"}
        if result.kept and not any("cursors" in fault for fault in result.faults):
            assert {state.name: state.cursor for state in statistics.outlets} == {"a": 0, "b": 351}
        journal.write(Transaction([row(1_000, "a", "b")]))
    if result.kept < 400:
        assert result.faults


def test_wiped_pages_cost_no_more_than_what_was_on_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    write_sample(path, rows=1_000)
    wipe_pages(path, 20, 30, 40)
    assert list(faults(path))
    result = salvage(path)
    assert 900 <= result.kept < 1_000
    assert result.kept + result.lost >= 1_000


def test_what_was_committed_to_a_log_that_was_never_moved_is_kept(tmp_path: Path) -> None:
    """The files of a process that was killed: all is in the write-ahead log still."""
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    with opened(path, "a") as journal:
        for position in range(1, 51):
            journal.write(Transaction([row(position, "a")]))
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    torn = Path(f"{copy}-wal")
    os.truncate(torn, torn.stat().st_size - 100)  # the last commit did not reach the disk whole
    with opened(copy, "a") as journal:
        assert positions(journal) == list(range(1, 50))


def test_a_repair_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    write_sample(path, rows=50)
    repaired = Path(f"{path}.repaired")
    path.rename(repaired)
    path.write_bytes(b"damaged")
    Path(f"{path}-wal").write_bytes(b"its log")
    finish_salvage(path)
    assert not repaired.exists()
    with opened(path, "a", "b") as journal:
        assert len(positions(journal)) == 50
    assert sorted(file.read_bytes() for file in tmp_path.glob("*.damaged-*")) == [b"damaged", b"its log"]


def test_a_broken_seal_is_found_in_any_column(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for column in ("takers", "events", "epoch", "seq", "enqueued_ns"):
        path.unlink(missing_ok=True)
        write_sample(path, rows=50)
        with sqlite3.connect(path) as db:
            db.execute(f"UPDATE batch SET {column}={column}+1 WHERE position=7")
        db.close()
        with opened(path, "a", "b") as journal, pytest.raises(JournalCorruptError, match="position 7 "):
            journal.read(7)
        assert len(list(faults(path))) == 1


def test_there_is_nothing_to_repair_where_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such file"):
        salvage(tmp_path / "nothing.db")
    with pytest.raises(JournalError, match="no such file"):
        list(faults(tmp_path / "nothing.db"))
    with pytest.raises(JournalError, match="No such file"):
        salvage(tmp_path / "folder" / "nothing.db")
