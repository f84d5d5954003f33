"""Exactly the right rows of the journal go, and what was written is read as it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.batch.batch import Header, Identity
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.remembered import StoredAnswer
from polku.errors import JournalError
from tests.buffer.journals import opened, positions, row
from tests.support.examples import examples

OUTLETS = ("a", "b", "c")

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
            freed = [
                journal.write(work)
                for work in (Transaction(rows, (), {name: cursors[name] for name in moves}), Transaction())
            ]
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
        journal.write(Transaction([Row(1, ("a",), header, b"payload"), row(2, "a", size=200_000)]))
    with opened(tmp_path / "j", "a") as journal:
        assert (journal.read(1).header, journal.read(1).payload) == (header, b"payload")
        assert journal.read(2).payload == row(2, "a", size=200_000).payload
        with pytest.raises(KeyError):
            journal.read(3)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        journal.write(Transaction([row(1, "a")]))
        with pytest.raises(JournalError):
            journal.write(Transaction([row(2, "a"), row(1, "a")], (), {"a": 1}))
        assert positions(journal) == [1]
        assert journal.cursors() == [("a", 0, 0)]
        with pytest.raises(JournalError):
            journal.write(Transaction((), [StoredAnswer(Identity("one", 2**70, 1), 1, 1)], {"a": 1}))
        assert positions(journal) == [1]


def test_what_failed_can_be_done_again_and_frees_what_it_frees(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        journal.write(Transaction([row(1, "a")]))
        late = sqlite3.connect(tmp_path / "j")
        late.execute("CREATE TRIGGER full BEFORE DELETE ON batch BEGIN SELECT RAISE(ABORT, 'no room'); END")
        with pytest.raises(JournalError, match="no room"):
            journal.write(Transaction((), (), {"a": 1}))
        late.execute("DROP TRIGGER full")
        late.close()
        assert journal.write(Transaction((), (), {"a": 1}))[0] == 1, "the cursor had not moved"
        assert positions(journal) == []


def test_what_was_passed_goes_also_where_there_is_always_more_to_write(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        freed = 0
        for position in range(1, 200):
            freed += journal.write(Transaction([row(position, "a")], (), {"a": position - 1}))[0]
            assert len(positions(journal)) <= 9
            assert journal.statistics().batches == 1, "what waits to be swept out is not held"
        assert freed + len(positions(journal)) == 199
        large = 100_000
        for position in range(200, 300):
            journal.write(Transaction([row(position, "a", size=large, events=9)], (), {"a": position - 1}))
            assert len(positions(journal)) * large <= 5 * 1024 * 1024


def test_what_a_killed_process_did_not_sweep_out_goes_when_the_journal_is_opened(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", lock=False)
    journal.register(["a", "b"])
    journal.write(Transaction([row(1, "a"), row(2, "b"), row(3, "a", "b")]))
    journal.write(Transaction([row(4, "b")], (), {"a": 4}))
    assert positions(journal) == [1, 2, 3, 4]
    with opened(tmp_path / "j", "a", "b") as again:
        assert positions(again) == [2, 3, 4]
        assert again.write(Transaction((), (), {"b": 3}))[0] == 2
    journal.close()


def test_one_commit_of_many_batches_is_one_transaction(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        rows = [row(n, "a", size=100_000 if n % 50 == 0 else 10) for n in range(1, 1001)]
        with pytest.raises(JournalError):
            journal.write(Transaction([*rows, row(1, "a")]))
        assert positions(journal) == []
        journal.write(Transaction(rows, [StoredAnswer(Identity("one", 1, n), n, n) for n in range(1, 201)]))
        assert [journal.read(r.position).payload for r in rows] == [r.payload for r in rows]
        assert len(journal.answers()) == 200


def test_a_new_outlet_begins_at_the_end_and_an_old_one_can_be_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a", "b") as journal:
        journal.write(Transaction([row(1, "a"), row(2, "a", "b"), row(3, "b")]))
    with opened(tmp_path / "j", "b", "c") as journal:
        assert {name: cursor for name, _, cursor in journal.cursors()} == {"a": 0, "b": 0, "c": 3}
        assert journal.forget("a") == 1
        assert positions(journal) == [2, 3]
        assert [journal.read(p).header.events for p in (2, 3)] == [1, 1]
        journal.register(["d"])  # has the place that a had
        assert journal.slots("d", 0, 9, 9) == []
        journal.write(Transaction((), (), {"b": 3}))
        assert positions(journal) == []


def test_more_outlets_than_there_are_places_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "j", *(str(n) for n in range(62))) as journal, pytest.raises(JournalError, match="--forget"):
        journal.register(["one.more"])
