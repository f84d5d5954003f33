"""Journals of older formats: read as they are, and brought to the present one by a writer, whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from polku.buffer import schema
from polku.buffer.journal import Journal
from polku.buffer.journal_file import seal
from polku.buffer.journal_reader import JournalReader
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.repair import faults, salvage
from polku.buffer.schema import VERSION, FormatStep
from polku.errors import JournalError
from polku.sqlite import APPLICATION

FORMAT_1 = """
PRAGMA page_size=32768;
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA journal_mode=WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS batch(
    position INTEGER PRIMARY KEY, takers INTEGER NOT NULL, events INTEGER NOT NULL, size INTEGER NOT NULL,
    origin TEXT, epoch INTEGER, seq INTEGER, routes TEXT, enqueued_ns INTEGER, trace TEXT,
    payload BLOB NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outlet(name TEXT PRIMARY KEY, bit INTEGER NOT NULL UNIQUE, cursor INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS answered(
    origin TEXT, epoch INTEGER, seq INTEGER, first INTEGER, last INTEGER, refused TEXT,
    PRIMARY KEY(origin, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
PRAGMA user_version=1;
COMMIT;
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Write a journal as the first release did: three batches for `a`, of which it has passed one, and an answer."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(FORMAT_1)
        for position in (1, 2, 3):
            columns = (position, 1, 1, 84, "link", 7, position, '["a"]', 5, "trace", b"payload %d" % position)
            db.execute("INSERT INTO batch VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", (*columns, seal(*columns)))
        db.execute("INSERT INTO outlet VALUES('a', 0, 1)")
        db.execute("""INSERT INTO answered VALUES('link', 7, 3, 3, 3, '[["x", "BUFFER_FULL", "why"]]')""")
        db.execute("INSERT INTO counter VALUES('lost_batches', 4)")
    return path


def holds_what_was_written(journal: JournalReader) -> bool:
    (answer,) = journal.answers()
    assert (answer.identity.seq, answer.first, [refusal.event_id for refusal in answer.refused]) == (3, 3, ["x"])
    assert [slot.position for slot in journal.slots("a", 1, 9, 9)] == [2, 3]
    assert [journal.read(position).payload for position in (2, 3)] == [b"payload 2", b"payload 3"]
    assert journal.read(3).header.routes == ("a",)
    return journal.statistics().lost_batches == 4


def format_of(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as db:
        queries = ("PRAGMA user_version", "PRAGMA application_id")
        version, application = (db.execute(query).fetchone()[0] for query in queries)
    return version, application


def test_a_reader_shows_an_old_journal_and_leaves_it_as_it_is(old: Path) -> None:
    journal = JournalReader(old)
    assert holds_what_was_written(journal)
    journal.close()
    assert list(faults(old)) == []
    assert format_of(old) == (1, 0)


def test_a_writer_brings_an_old_journal_to_the_present_format_and_writes_it(old: Path) -> None:
    journal = Journal(old)
    assert holds_what_was_written(journal)
    journal.register(["a", "b"])
    journal.write(Transaction([Row(4, ("a", "b"), journal.read(3).header, b"new")], (), {"a": 2}))
    assert journal.read(4).payload == b"new"
    journal.close()
    assert format_of(old) == (VERSION, APPLICATION)
    assert list(faults(old)) == []


def test_a_change_of_the_format_is_said_once_and_that_an_older_polku_cannot_open_it(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for path in (old, old, old.with_name("new.db")):
        Journal(path).close()
    said = f"journal {old}: format 1 is {VERSION} now, which an older POLKU cannot open"
    assert [one.getMessage() for one in caplog.records if "format" in one.getMessage()] == [said]


def test_a_damaged_old_journal_is_repaired_into_the_present_format(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.execute("UPDATE batch SET events=9 WHERE position=1")
    assert len(list(faults(old))) == 1
    assert salvage(old).kept == 2
    journal = Journal(old)
    assert [slot.position for slot in journal.slots("a", 0, 9, 9)] == [2, 3]
    assert journal.read(3).payload == b"payload 3"
    journal.close()
    assert format_of(old) == (VERSION, APPLICATION)


def test_a_step_that_fails_leaves_the_old_journal_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = FormatStep(("CREATE TABLE half(x)", "INSERT INTO no_such_table VALUES(1)"))
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, broken))
    monkeypatch.setattr(schema, "VERSION", VERSION + 1)
    with pytest.raises(JournalError, match="no_such_table"):
        Journal(old)
    assert format_of(old) == (1, 0)
    monkeypatch.undo()
    journal = Journal(old)
    assert holds_what_was_written(journal)
    journal.close()


def test_a_new_journal_is_marked_as_ours(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.db").close()
    assert format_of(tmp_path / "journal.db") == (VERSION, APPLICATION)


@pytest.mark.parametrize(("application", "version"), [(0, 1), (0, 2), (0x1234, 0), (0x1234, 1)])
def test_another_programs_database_is_never_taken_for_a_journal(tmp_path: Path, application: int, version: int) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE batch(theirs)")
        db.execute(f"PRAGMA application_id={application}")
        db.execute(f"PRAGMA user_version={version}")
    before = path.read_bytes()
    for kind in (Journal, JournalReader):
        with pytest.raises(JournalError, match="is not a journal"):
            kind(path)
    assert path.read_bytes() == before
