"""The file of dead letters: what is a letter of its own, what goes for want of room, what a replay leaves behind."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import Event
from polku.dead_letters.kinds import Kind
from polku.dead_letters.schema import VERSION, prepare
from polku.dead_letters.store import DeadLetterStore, Letter, Selection, as_event
from polku.errors import JournalError
from tests.dead_letters.letters import found, ids, letter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeadLetterStore]:
    store = DeadLetterStore(tmp_path / "dead.db")
    yield store
    store.close()


def test_the_same_event_that_dies_again_is_one_letter_with_more_attempts(store: DeadLetterStore) -> None:
    store.add([letter("a")])
    store.add([letter("a")._replace(reason="again", attempts=3, last_ns=9)])
    (only,) = found(store)
    assert (only.attempts, only.reason, only.first_ns, only.last_ns) == (4, "again", 1, 9)


def test_another_event_of_the_same_id_never_takes_the_place_of_a_letter(store: DeadLetterStore) -> None:
    first = letter("order-7", payload=b"the real order")
    forged = letter("order-7", payload=b"forged")
    elsewhere = Event(id="order-7", source="other").SerializeToString()
    store.add([first])
    store.add([forged, forged._replace(source="other", event=elsewhere), forged._replace(emitter="")])
    assert [as_event(one).payload for one in found(store, emitter="sink")] == [b"the real order", b"forged", b""]
    assert store.counters()["letters"] == 4


def test_the_order_of_metadata_makes_no_other_event(store: DeadLetterStore) -> None:
    field = Event.DESCRIPTOR.fields_by_name["metadata"].number << 3 | 2
    frames = [bytes([field, 6, 10, 1, ord(key), 18, 1, ord("v")]) for key in "xy"]
    there, back = b"".join(frames), b"".join(frames[::-1])
    store.add([letter("a")._replace(event=there)])
    store.add([letter("a")._replace(event=back)])
    assert ids(store) == ["a"]


def test_a_flood_of_one_kind_pushes_out_the_oldest_of_that_kind_and_is_counted(tmp_path: Path) -> None:
    store = DeadLetterStore(tmp_path / "dead.db", max_events=20)
    store.add([letter(f"order-{n}", "ledger") for n in range(5)])
    forgotten = [store.add([letter(f"{n}-{i}", "", "UNROUTABLE") for i in range(10)]) for n in range(10)]
    assert ids(store, emitter="ledger") == [f"order-{n}" for n in range(5)]
    assert ids(store, emitter="") == [*(f"8-{i}" for i in range(5, 10)), *(f"9-{i}" for i in range(10))]
    assert sum(count.get(Kind("", "UNROUTABLE"), 0) for count in forgotten) == 85
    assert all(set(count) <= {Kind("", "UNROUTABLE")} for count in forgotten)
    assert store.counters()["forgotten"] == 85
    assert [(str(one.kind), one.letters, one.forgotten) for one in store.kinds()] == [
        ("- UNROUTABLE", 15, 85),
        ("ledger UNDELIVERED", 5, 0),
    ]
    store.close()


def test_a_flood_of_bytes_costs_only_its_own_kind(tmp_path: Path) -> None:
    store = DeadLetterStore(tmp_path / "dead.db", max_bytes=20_000)
    store.add([letter(f"order-{n}", "ledger") for n in range(5)])
    for n in range(50):
        store.add([letter(str(n), "", "UNROUTABLE", payload=bytes(2_000))])
    assert ids(store, emitter="ledger") == [f"order-{n}" for n in range(5)]
    assert ids(store, emitter="") == [str(n) for n in range(50 - len(ids(store, emitter="")), 50)]
    store.add([letter("huge", "", "UNROUTABLE", payload=bytes(30_000))])
    assert ids(store, emitter="ledger") == [f"order-{n}" for n in range(5)]
    assert store.counters()["bytes"] <= 20_000
    store.close()


def test_a_flood_of_one_principal_pushes_out_its_own_letters(tmp_path: Path) -> None:
    store = DeadLetterStore(tmp_path / "dead.db", max_events=32)
    store.add([letter(f"mine-{n}", "", "UNROUTABLE")._replace(principal="quiet") for n in range(5)])
    for n in range(20):
        store.add([letter(f"{n}-{i}", "", "UNROUTABLE")._replace(principal="loud") for i in range(10)])
    kept = [one for one in store.select(Selection()) if one.principal == "quiet"]
    assert sorted(one.event_id for one in kept) == [f"mine-{n}" for n in range(5)]
    assert [(str(one.kind), one.letters, one.forgotten) for one in store.kinds()] == [("- UNROUTABLE", 32, 173)]
    store.close()


def test_a_letter_whose_code_changes_is_counted_as_what_it_is_now(store: DeadLetterStore) -> None:
    store.add([letter("a")])
    store.add([letter("a", code="POISON")])
    assert [(one.kind.code, one.letters) for one in store.kinds()] == [("POISON", 1), ("UNDELIVERED", 0)]
    assert store.names("code") == ["POISON"]
    store.drop(Selection())
    assert store.counters()["letters"] == store.counters()["bytes"] == 0


def test_whatever_a_letter_holds_it_is_stored_and_those_beside_it(store: DeadLetterStore) -> None:
    odd = letter("odd")._replace(
        event_id="\ud800", reason="\udfff\x1b", detail="\ud83d\n\tx", attempts=2**70, last_ns=2**80, code="\ud800"
    )
    nonsense = letter("nonsense")._replace(reason=None, attempts="three", detail=7)  # type: ignore[arg-type]
    store.add([letter("a"), odd, nonsense, letter("b")])
    by_id = {one.event_id: one for one in found(store)}
    assert by_id.keys() == {"a", "\\ud800", "nonsense", "b"}
    assert (by_id["\\ud800"].reason, by_id["\\ud800"].detail) == ("\\udfff\\x1b", "\\ud83d\n\tx")


def test_an_event_that_is_too_large_for_a_row_leaves_a_letter_without_its_content(
    store: DeadLetterStore, caplog: pytest.LogCaptureFixture
) -> None:
    store._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5_000)
    store.add([letter("large", payload=bytes(6_000)), letter("a")])
    large, small = found(store)
    assert (large.event_id, large.event, small.event_id) == ("large", b"", "a")
    assert "cannot be stored" in large.reason
    assert "event large cannot be stored whole" in caplog.text


def test_asking_twice_for_a_replay_changes_nothing_for_one_that_is_in_flight(store: DeadLetterStore) -> None:
    store.add([letter("a"), letter("b")])
    assert store.mark(Selection(ids=(1,))) == 1
    assert store.mark(Selection()) == 2
    assert [(one.event_id, one.replay) for one in store.replays("sink", 10)] == [("a", 1), ("b", 2)]
    assert store.waiting() == {"sink": 2}


def test_a_replay_that_found_no_room_gets_another_number(store: DeadLetterStore) -> None:
    store.add([letter("a")])
    store.mark(Selection())
    (first,) = store.replays("sink", 10)
    store.try_again([first])
    (second,) = store.replays("sink", 10)
    assert second.replay > first.replay
    store.try_again([first])  # an answer that comes late is not about the second attempt
    store.replayed([first])
    assert store.replays("sink", 10) == [second]
    store.replayed([second])
    assert ids(store) == []


def test_a_letter_that_died_again_stays_when_its_replay_is_confirmed(store: DeadLetterStore) -> None:
    store.add([letter("a")])
    store.mark(Selection())
    (marked,) = store.replays("sink", 10)
    store.add([letter("a")])
    store.replayed([marked])
    store.try_again([marked])
    assert [(one.event_id, one.replay, one.attempts) for one in found(store)] == [("a", 0, 2)]


def test_a_refused_replay_stays_says_why_and_is_no_longer_marked(store: DeadLetterStore) -> None:
    store.add([letter("a", ""), letter("b", "")])
    store.mark(Selection())
    a, b = store.replays("", 10)
    store.add([letter("a", "")])  # it has died again meanwhile
    for one in (a, b):
        store.refused(one, "METADATA_LIMIT: too long")
    left = [(one.event_id, one.reason, one.replay) for one in found(store)]
    assert left == [("a", "why", 0), ("b", "its replay was refused: METADATA_LIMIT: too long", 0)]


BACK_TO_VERSION_2 = """
DROP TRIGGER added; DROP TRIGGER removed; DROP TRIGGER changed; DROP INDEX of_kind;
CREATE TABLE kind_2(
    emitter TEXT NOT NULL, code TEXT NOT NULL, letters INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(emitter, code)) WITHOUT ROWID;
INSERT INTO kind_2 SELECT emitter, code, letters, bytes, forgotten FROM kind;
DROP TABLE kind;
ALTER TABLE kind_2 RENAME TO kind;
ALTER TABLE letter DROP COLUMN principal;
CREATE INDEX of_kind ON letter(emitter, code, id);
PRAGMA user_version=2;
"""
VERSION_1 = """
CREATE TABLE IF NOT EXISTS letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, emitter TEXT NOT NULL, code TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL, first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, replay INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL, event BLOB NOT NULL, UNIQUE(event_id, emitter));
CREATE INDEX IF NOT EXISTS replays ON letter(replay) WHERE replay > 0;
CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES ('letters', 0), ('bytes', 0), ('forgotten', 0), ('total', 0), ('replays', 0);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON letter BEGIN
    UPDATE counter SET value = value + 1 WHERE name = 'letters';
    UPDATE counter SET value = value + new.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON letter BEGIN
    UPDATE counter SET value = value - 1 WHERE name = 'letters';
    UPDATE counter SET value = value - old.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE OF size ON letter BEGIN
    UPDATE counter SET value = value + new.size - old.size WHERE name = 'bytes'; END;
"""


def version_1(path: Path, letters: list[Letter]) -> None:
    """Write a file as the first version did."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(f"PRAGMA auto_vacuum=INCREMENTAL; PRAGMA application_id={0x504F4C44}; PRAGMA user_version=1;")
    db.executescript(VERSION_1)
    db.execute("INSERT OR IGNORE INTO counter VALUES('birth', 4711)")
    columns = "event_id, emitter, code, reason, detail, attempts, first_ns, last_ns, type, source, size, event"
    for one in letters:
        values = (*one[1:11], len(one.event), one.event)
        db.execute(f"INSERT INTO letter({columns}) VALUES({','.join('?' * 12)})", values)
    db.execute("DELETE FROM letter WHERE id=3")
    db.execute("UPDATE letter SET replay=5 WHERE id=2")
    db.execute("UPDATE counter SET value=5 WHERE name='replays'")
    db.execute("UPDATE counter SET value=7 WHERE name='forgotten'")
    db.close()


def test_a_file_of_the_first_version_is_brought_up_to_this_one_when_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "dead.db"
    version_1(path, [letter("a"), letter("b", ""), letter("gone")])
    store = DeadLetterStore(path, create=False)
    assert f"{path}: format 1 is {VERSION} now, which an older POLKU cannot open" in caplog.text
    assert [(one.id, one.event_id, one.emitter, one.replay) for one in found(store)] == [
        (1, "a", "sink", 0),
        (2, "b", "", 5),
    ]
    assert store.birth == 4711
    assert store.counters()["letters"] == 2
    assert store.counters()["forgotten"] == 7
    store.add([letter("a"), letter("a", payload=b"another")])
    old, new = found(store, emitter="sink")
    assert (old.id, old.attempts, new.id > 3, new.attempts) == (1, 2, True, 1)  # numbers are never given twice
    store.mark(Selection(ids=(1,)))
    assert [one.replay for one in store.replays("sink", 10)] == [6]
    store.close()
    again = DeadLetterStore(path, create=False)
    assert again.counters()["letters"] == 3
    again.close()


def test_an_empty_file_of_the_first_version_is_brought_up_too(tmp_path: Path) -> None:
    version_1(tmp_path / "dead.db", [])
    with sqlite3.connect(tmp_path / "bare.db", isolation_level=None) as db:  # its process died between two statements
        db.executescript(f"PRAGMA application_id={0x504F4C44}; PRAGMA user_version=1;")
    db.close()
    for name in ("dead.db", "bare.db"):
        store = DeadLetterStore(tmp_path / name)
        store.add([letter("a")])
        assert ids(store) == ["a"]
        store.close()


def test_a_file_of_the_second_version_is_brought_up_with_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    store = DeadLetterStore(path, max_events=3)
    store.add([letter("a"), letter("b"), letter("c", ""), letter("d")])
    store.close()
    db = sqlite3.connect(path)
    db.executescript(BACK_TO_VERSION_2)
    db.close()
    again = DeadLetterStore(path, max_events=3)
    assert sorted(ids(again)) == ["b", "c", "d"]
    assert [(str(one.kind), one.letters, one.forgotten) for one in again.kinds()] == [
        ("- UNDELIVERED", 1, 0),
        ("sink UNDELIVERED", 2, 1),
    ]
    again.add([letter("e")._replace(principal="agents")])
    assert "e" in ids(again)
    assert again.counters()["letters"] == 3
    again.close()


def test_a_file_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    DeadLetterStore(path).close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    with pytest.raises(JournalError, match=f"format {VERSION + 1}, ours {VERSION}"):
        DeadLetterStore(path)


class Made(sqlite3.Connection):
    """A connection to a file that another process makes before the second statement."""

    path = Path()
    statements = 0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.statements += 1
        if self.statements == 2:
            DeadLetterStore(self.path).close()
        return super().execute(*arguments)


def test_a_file_that_is_made_while_it_is_opened_is_one_of_dead_letters(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, factory=Made)) as db:
        db.path = path
        prepare(db, path)
        assert db.execute("SELECT count(*) FROM letter").fetchone() == (0,)
