"""The journal on disk: exactly the right rows go, and what is damaged is found, named and passed over."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.batch.batch import Header, Identity
from polku.batch.receipt import Refusal
from polku.buffer.answers import LIVES, Answer
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Work
from polku.buffer.journal_sweep import KEPT_ANSWERS
from polku.buffer.lock import holder
from polku.buffer.repair import faults, finish_salvage, salvage
from polku.buffer.schema import VERSION
from polku.codes import Code
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from tests.support.examples import examples

OUTLETS = ("a", "b", "c")


@contextmanager
def opened(path: Path, *outlets: str) -> Iterator[Journal]:
    journal = Journal(path)
    journal.register(outlets)
    try:
        yield journal
    finally:
        journal.close()


def row(position: int, *takers: str, size: int = 20, events: int = 1) -> Row:
    payload = random.Random(position).randbytes(size)
    return Row(position, takers, Header(events, Identity("link", 1, position), (), 5, "trace"), payload)


def positions(journal: Journal) -> list[int]:
    return [position for (position,) in journal._db.execute("SELECT position FROM batch ORDER BY position")]


TAKERS = st.sets(st.sampled_from(OUTLETS), min_size=1)
STEPS = st.lists(
    st.tuples(st.lists(TAKERS, max_size=4), st.dictionaries(st.sampled_from(OUTLETS), st.integers(0, 12))), max_size=12
)


@examples(60)
@given(STEPS)
def test_a_row_goes_when_every_outlet_of_its_set_has_passed_it(
    steps: list[tuple[list[set[str]], dict[str, int]]],
) -> None:
    with TemporaryDirectory() as folder, opened(Path(folder) / "journal.db", *OUTLETS) as journal:
        waiting: dict[int, set[str]] = {}
        cursors = dict.fromkeys(OUTLETS, 0)
        last = 0
        for arrivals, moves in steps:
            rows = [row(last + n, *sorted(takers), events=n) for n, takers in enumerate(arrivals, 1)]
            waiting.update({r.position: set(r.takers) for r in rows})
            weights = {r.position: r.header.events for r in rows} | {
                p: journal.read(p).header.events for p in positions(journal)
            }
            last += len(rows)
            cursors.update({name: max(cursors[name], min(to, last)) for name, to in moves.items()})
            freed = [journal.write(work) for work in (Work(rows, (), {name: cursors[name] for name in moves}), Work())]
            gone = [p for p, takers in waiting.items() if all(cursors[name] >= p for name in takers)]
            assert sum(events for events, _ in freed) == sum(weights[p] for p in gone)
            for position in gone:
                del waiting[position]
            assert positions(journal) == sorted(waiting)
            for name in OUTLETS:
                due = [p for p in sorted(waiting) if name in waiting[p] and p > cursors[name]]
                assert [slot.position for slot in journal.slots(name, cursors[name], last, 100)] == due
                state = next(state for state in journal.outlets() if state.name == name)
                assert (state.cursor, state.batches) == (cursors[name], len(due))


def test_what_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    header = Header(3, Identity("origin", 1 << 62, 9), ("a", "ö"), 1 << 62, "00-trace")
    with opened(tmp_path / "j", "a") as journal:
        journal.write(Work([Row(1, ("a",), header, b"payload"), row(2, "a", size=200_000)]))
    with opened(tmp_path / "j", "a") as journal:
        assert (journal.read(1).header, journal.read(1).payload) == (header, b"payload")
        assert journal.read(2).payload == row(2, "a", size=200_000).payload
        with pytest.raises(KeyError):
            journal.read(3)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        journal.write(Work([row(1, "a")]))
        with pytest.raises(JournalError):
            journal.write(Work([row(2, "a"), row(1, "a")], (), {"a": 1}))
        assert positions(journal) == [1]
        assert journal.cursors() == [("a", 0, 0)]
        with pytest.raises(JournalError):
            journal.write(Work((), [Answer(Identity("one", 2**70, 1), 1, 1)], {"a": 1}))
        assert positions(journal) == [1]


def test_what_failed_can_be_done_again_and_frees_what_it_frees(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        journal.write(Work([row(1, "a")]))
        late = sqlite3.connect(tmp_path / "j")
        late.execute("CREATE TRIGGER full BEFORE DELETE ON batch BEGIN SELECT RAISE(ABORT, 'no room'); END")
        with pytest.raises(JournalError, match="no room"):
            journal.write(Work((), (), {"a": 1}))
        late.execute("DROP TRIGGER full")
        late.close()
        assert journal.write(Work((), (), {"a": 1}))[0] == 1, "the cursor had not moved"
        assert positions(journal) == []


def test_answers_are_kept_for_the_latest_batches_of_the_latest_lives(tmp_path: Path) -> None:
    refused = (Refusal("x", Code.BUFFER_FULL, "why"),)
    with opened(tmp_path / "j", "a") as journal:
        for seq in range(1, 2 * KEPT_ANSWERS):
            journal.write(Work([], [Answer(Identity("one", 1, seq), 1, 0, refused)]))
        assert [a.identity.seq for a in journal.answers()] == list(range(KEPT_ANSWERS, 2 * KEPT_ANSWERS))
        for epoch in range(2, LIVES + 2):
            for seq in range(1, KEPT_ANSWERS):
                journal.write(Work([], [Answer(Identity("one", epoch, seq), 1, 0)]))
            assert {a.identity.epoch for a in journal.answers()} == set(range(max(epoch - LIVES, 0) + 1, epoch + 1))
        journal.write(Work(refused=[(Identity("one", 2, 1), refused), (Identity("nobody", 1, 1), refused)]))
        assert journal.answers()[0].refused == refused


def test_a_life_that_is_heard_again_is_remembered_before_those_that_are_not_also_by_who_opens_it_next(
    tmp_path: Path,
) -> None:
    for position, epoch in enumerate([9, 2, 3, 4, 9, 5, 6], start=1):
        with opened(tmp_path / "j", "a") as journal:
            for _ in range(2):  # what is over goes a little at a time
                journal.write(Work([], [Answer(Identity("one", epoch, position), position, position)]))
    with opened(tmp_path / "j", "a") as journal:
        assert list(dict.fromkeys(a.identity.epoch for a in journal.answers())) == [4, 9, 5, 6]


def test_lives_that_are_heard_between_two_sweeps_are_all_remembered(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        for position, epoch in enumerate([1, 9, 2, 3, 4, 9], start=1):
            journal.write(Work([row(position, "a")], [Answer(Identity("one", epoch, position), position, position)]))
        journal.write(Work())
        assert {answer.identity.epoch for answer in journal.answers()} == {2, 3, 4, 9}


def test_answers_of_parts_go_with_their_batches_and_those_of_lives_with_a_clock_ahead_too(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        for seq in range(1, 20):
            whole = Identity("p/one", 1 << 62, seq)
            answers = [Answer(identity, 1, 0) for identity in (whole, whole.part(0, 8), whole.part(8, 8).made("0f"))]
            journal.write(Work([], [*answers, Answer(Identity("p/one2", 5, seq), 1, 0)]))
        for epoch in range(7, 7 + LIVES):
            for seq in range(1, KEPT_ANSWERS):
                journal.write(Work([], [Answer(Identity("p/one", epoch, seq), 1, 0)]))
        kept = [answer.identity for answer in journal.answers()]
        assert {identity.epoch for identity in kept if identity.whole.origin == "p/one"} == {7, 8, 9, 10}
        assert sum(identity.origin == "p/one2" for identity in kept) == 19


def test_answers_of_two_lives_that_come_between_two_sweeps_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        both = [Identity("one", 1, 1), Identity("one", 2, 2)]
        journal.write(Work([], [Answer(identity, 1, 0) for identity in both]))
        assert [answer.identity for answer in journal.answers()] == both


def test_answers_that_wait_for_delivery_stay_until_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", final=False)
    journal.register(["a"])
    for seq in range(1, KEPT_ANSWERS + 50):
        journal.write(Work([row(seq, "a")], [Answer(Identity("one", 1, seq), seq, seq)]))
    assert len(journal.answers()) == KEPT_ANSWERS + 49
    journal.write(Work((), (), {"a": KEPT_ANSWERS}))
    for seq in range(KEPT_ANSWERS + 50, KEPT_ANSWERS + 150):
        journal.write(Work([row(seq, "a")], [Answer(Identity("one", 1, seq), seq, seq)]))
    journal.write(Work())
    assert len(journal.answers()) == KEPT_ANSWERS
    journal.close()


def test_what_was_passed_goes_also_where_there_is_always_more_to_write(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        freed = 0
        for position in range(1, 200):
            freed += journal.write(Work([row(position, "a")], (), {"a": position - 1}))[0]
            assert len(positions(journal)) <= 9
            assert journal.statistics().batches == 1, "what waits to be swept out is not held"
        assert freed + len(positions(journal)) == 199
        large = 100_000
        for position in range(200, 300):
            journal.write(Work([row(position, "a", size=large, events=9)], (), {"a": position - 1}))
            assert len(positions(journal)) * large <= 5 * 1024 * 1024


def test_what_a_killed_process_did_not_sweep_out_goes_when_the_journal_is_opened(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", lock=False)
    journal.register(["a", "b"])
    journal.write(Work([row(1, "a"), row(2, "b"), row(3, "a", "b")]))
    journal.write(Work([row(4, "b")], (), {"a": 4}))
    assert positions(journal) == [1, 2, 3, 4]
    with opened(tmp_path / "j", "a", "b") as again:
        assert positions(again) == [2, 3, 4]
        assert again.write(Work((), (), {"b": 3}))[0] == 2
    journal.close()


def test_one_commit_of_many_batches_is_one_transaction(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        rows = [row(n, "a", size=100_000 if n % 50 == 0 else 10) for n in range(1, 1001)]
        with pytest.raises(JournalError):
            journal.write(Work([*rows, row(1, "a")]))
        assert positions(journal) == []
        journal.write(Work(rows, [Answer(Identity("one", 1, n), n, n) for n in range(1, 201)]))
        assert [journal.read(r.position).payload for r in rows] == [r.payload for r in rows]
        assert len(journal.answers()) == 200


def test_a_new_outlet_begins_at_the_end_and_an_old_one_can_be_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a", "b") as journal:
        journal.write(Work([row(1, "a"), row(2, "a", "b"), row(3, "b")]))
    with opened(tmp_path / "j", "b", "c") as journal:
        assert {name: cursor for name, _, cursor in journal.cursors()} == {"a": 0, "b": 0, "c": 3}
        assert journal.forget("a") == 1
        assert positions(journal) == [2, 3]
        assert [journal.read(p).header.events for p in (2, 3)] == [1, 1]
        journal.register(["d"])  # has the place that a had
        assert journal.slots("d", 0, 9, 9) == []
        journal.write(Work((), (), {"b": 3}))
        assert positions(journal) == []


def test_more_outlets_than_there_are_places_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "j", *(str(n) for n in range(62))) as journal, pytest.raises(JournalError, match="--forget"):
        journal.register(["one.more"])


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
        journal.write(Work([row(1, "a")]))


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
    with pytest.raises(JournalError, match="is no journal"):
        Journal(tmp_path / "theirs")
    with sqlite3.connect(tmp_path / "theirs") as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    db.close()


def write_sample(path: Path, rows: int = 400, size: int = 2_000) -> None:
    with opened(path, "a", "b") as journal:
        for start in range(1, rows + 1, 50):
            batches = [row(position, "a", "b", size=size) for position in range(start, start + 50)]
            journal.write(Work(batches, [Answer(Identity("link", 1, start), start, start + 49)], {"b": start}))


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
        journal.write(Work([row(1_000, "a", "b")]))
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
            journal.write(Work([row(position, "a")]))
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
