"""Journals with rows in them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polku.batch.batch import Header, Identity
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.remembered import StoredAnswer


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


def write_sample(path: Path, rows: int = 400, size: int = 2_000) -> None:
    with opened(path, "a", "b") as journal:
        for start in range(1, rows + 1, 50):
            batches = [row(position, "a", "b", size=size) for position in range(start, start + 50)]
            journal.write(
                Transaction(batches, [StoredAnswer(Identity("link", 1, start), start, start + 49)], {"b": start})
            )
