"""Answers in the journal are kept as long as somebody may ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from polku.batch.batch import Identity
from polku.batch.receipt import Refusal
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Transaction
from polku.buffer.journal_sweep import KEPT_ANSWERS
from polku.buffer.remembered import LIVES, StoredAnswer
from polku.codes import Code
from tests.buffer.journals import opened, row


def write_lives(journal: Journal, origin: str, epochs: Iterable[int]) -> Iterator[int]:
    """Write answers of these lives, some at once, as a busy journal does; yield each life once it is written."""
    for epoch in epochs:
        for first in range(1, KEPT_ANSWERS, 5):
            journal.write(
                Transaction([], [StoredAnswer(Identity(origin, epoch, seq), 1, 0) for seq in range(first, first + 5)])
            )
        yield epoch


def test_answers_are_kept_for_the_latest_batches_of_the_latest_lives(tmp_path: Path) -> None:
    refused = (Refusal("x", Code.BUFFER_FULL, "why"),)
    with opened(tmp_path / "j", "a") as journal:
        for seq in range(1, 2 * KEPT_ANSWERS):
            journal.write(Transaction([], [StoredAnswer(Identity("one", 1, seq), 1, 0, refused)]))
        assert [a.identity.seq for a in journal.answers()] == list(range(KEPT_ANSWERS, 2 * KEPT_ANSWERS))
        for epoch in write_lives(journal, "one", range(2, LIVES + 2)):
            assert {a.identity.epoch for a in journal.answers()} == set(range(max(epoch - LIVES, 0) + 1, epoch + 1))
        journal.write(Transaction(refused=[(Identity("one", 2, 1), refused), (Identity("nobody", 1, 1), refused)]))
        assert journal.answers()[0].refused == refused


def test_a_life_that_is_heard_again_is_remembered_before_those_that_are_not_also_by_who_opens_it_next(
    tmp_path: Path,
) -> None:
    others = list(range(1, 2 * LIVES - 1))
    epochs = [99, *others[: LIVES - 1], 99, *others[LIVES - 1 :]]
    for position, epoch in enumerate(epochs, start=1):
        with opened(tmp_path / "j", "a") as journal:
            for _ in range(2):  # what is over goes a little at a time
                journal.write(Transaction([], [StoredAnswer(Identity("one", epoch, position), position, position)]))
    with opened(tmp_path / "j", "a") as journal:
        assert list(dict.fromkeys(a.identity.epoch for a in journal.answers())) == epochs[-LIVES:]


def test_lives_that_are_heard_between_two_sweeps_are_all_remembered(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        epochs = [1, 99, *range(2, LIVES + 1), 99]
        for position, epoch in enumerate(epochs, start=1):
            journal.write(
                Transaction([row(position, "a")], [StoredAnswer(Identity("one", epoch, position), position, position)])
            )
        journal.write(Transaction())
        assert {answer.identity.epoch for answer in journal.answers()} == set(epochs[-LIVES:])


def test_answers_of_parts_go_with_their_batches_and_those_of_lives_with_a_clock_ahead_too(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        for seq in range(1, 20):
            whole = Identity("p/one", 1 << 62, seq)
            answers = [
                StoredAnswer(identity, 1, 0) for identity in (whole, whole.piece(0, 8), whole.piece(8, 8).made("0f"))
            ]
            journal.write(Transaction([], [*answers, StoredAnswer(Identity("p/one2", 5, seq), 1, 0)]))
        assert len([*write_lives(journal, "p/one", range(7, 7 + LIVES))]) == LIVES
        kept = [answer.identity for answer in journal.answers()]
        assert {identity.epoch for identity in kept if identity.whole.origin == "p/one"} == set(range(7, 7 + LIVES))
        assert sum(identity.origin == "p/one2" for identity in kept) == 19


def test_answers_of_two_lives_that_come_between_two_sweeps_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "j", "a") as journal:
        both = [Identity("one", 1, 1), Identity("one", 2, 2)]
        journal.write(Transaction([], [StoredAnswer(identity, 1, 0) for identity in both]))
        assert [answer.identity for answer in journal.answers()] == both


def test_answers_that_wait_for_delivery_stay_until_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", final=False)
    journal.register(["a"])
    for seq in range(1, KEPT_ANSWERS + 50):
        journal.write(Transaction([row(seq, "a")], [StoredAnswer(Identity("one", 1, seq), seq, seq)]))
    assert len(journal.answers()) == KEPT_ANSWERS + 49
    journal.write(Transaction((), (), {"a": KEPT_ANSWERS}))
    for seq in range(KEPT_ANSWERS + 50, KEPT_ANSWERS + 150):
        journal.write(Transaction([row(seq, "a")], [StoredAnswer(Identity("one", 1, seq), seq, seq)]))
    journal.write(Transaction())
    assert len(journal.answers()) == KEPT_ANSWERS
    journal.close()
