"""Sweep a journal: delete what every outlet has passed, and answers that nobody can ask for any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from polku.batch.batch import derived_from
from polku.buffer.journal_rows import Transaction
from polku.buffer.journal_totals import total
from polku.buffer.remembered import LIVES

KEPT_ANSWERS = 256  # for each life of a sender: far more than a window
SWEEP_COMMITS = 8
_SWEEP_BYTES = 4 * 1024 * 1024
# Answers to a sender's batches and to what was derived from them: old ones of one life, and all those of lives that are
# over. The epoch of such a life may be the higher one: clocks go back.
_FROM_OLD = (
    "FROM answered WHERE (origin=? OR (origin>? AND origin<?)) "
    f"AND (epoch=? AND seq<=? OR epoch NOT IN ({','.join('?' * LIVES)})) ORDER BY epoch, seq LIMIT ?"
)
_OLD_ANSWERS = f"SELECT origin, epoch, seq {_FROM_OLD}"
_OLD_ANSWERS_PLACES = f"SELECT origin, epoch, seq, first, last {_FROM_OLD}"


class Unswept(NamedTuple):
    """Count what was written since the latest sweep.

    `latest` is the last number of each sender's life; the life that was heard last stands last.
    """

    commits: int = 0
    bytes: int = 0
    answers: int = 0
    latest: Mapping[tuple[str, int], int] = {}

    @property
    def is_due(self) -> bool:
        """Whether it is worth a sweep."""
        return self.commits >= SWEEP_COMMITS or self.bytes >= _SWEEP_BYTES

    def plus(self, work: Transaction) -> Unswept:
        """Count one commit more."""
        size = sum(len(row.payload) for row in work.rows)
        wholes = [answer.identity.whole for answer in work.answers]
        latest = {(whole.origin, whole.epoch): whole.seq for whole in wholes}
        counts = (self.commits + 1, self.bytes + size, self.answers + len(work.answers))
        earlier = {life: seq for life, seq in self.latest.items() if life not in latest}
        return Unswept(*counts, {**earlier, **latest})


class OldAnswers:
    """Know which answers nobody can ask for any more; with `final` answers are final when they are written."""

    def __init__(self, *, final: bool) -> None:
        self._final = final
        self._lives: dict[str, dict[int, None]] = {}  # the epochs of each sender's latest lives, the latest last

    def forget(self, db: sqlite3.Connection, unswept: Unswept) -> None:
        """Delete old answers, twice as many as were written since the latest sweep."""
        count = 2 * unswept.answers  # two go for one that came, so old ones are caught up with
        for life in unswept.latest:  # all of them, before any is taken for over
            self.hear_of(*life)
        for (origin, epoch), seq in unswept.latest.items():
            lives = self._lives[origin]
            epochs = (*lives, *[epoch] * (LIVES - len(lives)))
            old = (origin, *derived_from(origin), epoch, seq - KEPT_ANSWERS, *epochs, count)
            if self._final:
                db.execute(f"DELETE FROM answered WHERE (origin, epoch, seq) IN ({_OLD_ANSWERS})", old)
                continue
            for *key, first, last in db.execute(_OLD_ANSWERS_PLACES, old).fetchall():
                if not _holds(db, first, last):  # those whose batches still wait may be asked for
                    db.execute("DELETE FROM answered WHERE origin=? AND epoch=? AND seq=?", key)

    def hear_of(self, origin: str, epoch: int) -> None:
        """Learn which life of a sender was heard last: the answers to the latest ones are kept.

        A sender that hears of another of its name takes a higher epoch, and may have to send again what it sent before.
        """
        lives = self._lives.setdefault(origin, {})
        lives.pop(epoch, None)
        lives[epoch] = None
        while len(lives) > LIVES:
            del lives[next(iter(lives))]


def sweep(
    db: sqlite3.Connection, bits: Mapping[str, int], swept: Mapping[str, int], cursors: Mapping[str, int]
) -> tuple[int, int]:
    """Delete what outlets passed between two places and no other waits for; return its events and bytes."""
    moves = [(swept.get(name, 0), cursor) for name, cursor in cursors.items()]
    events = size = 0
    for start, end in pairwise(sorted({place for move in moves for place in move})):
        if not any(before <= start and end <= after for before, after in moves):
            continue
        waiting = sum(1 << bits[name] for name, cursor in cursors.items() if cursor <= start)
        span = (start, end, waiting)
        gone = total(db, "WHERE position>? AND position<=? AND NOT takers & ?", *span)
        if gone[0]:
            db.execute("DELETE FROM batch WHERE position>? AND position<=? AND NOT takers & ?", span)
        events, size = events + gone[1], size + gone[2]
    return events, size


def _holds(db: sqlite3.Connection, first: int, last: int) -> bool:
    query = "SELECT 1 FROM batch WHERE position BETWEEN ? AND ? LIMIT 1"
    return db.execute(query, (first, last)).fetchone() is not None
