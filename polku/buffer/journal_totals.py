"""Count what a journal holds."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from polku.buffer.positions import OutletState


class JournalStatistics(NamedTuple):
    """Describe a journal: what it holds, its file, and what could not be read since it was made."""

    batches: int
    events: int
    bytes: int
    file_bytes: int
    free_bytes: int
    lost_batches: int
    outlets: tuple[OutletState, ...]


def total(db: sqlite3.Connection, where: str, *values: int) -> tuple[int, int, int]:
    """Return the number, the events and the bytes of the batches that a condition picks."""
    query = f"SELECT count(*), coalesce(sum(events), 0), coalesce(sum(size), 0) FROM batch {where}"
    batches, events, size = db.execute(query, values).fetchone()
    return batches, events, size


def held(db: sqlite3.Connection, cursors: Sequence[tuple[str, int, int]]) -> tuple[int, int, int]:
    """Count the batches, events and bytes that an outlet waits for: not those that are yet to be swept out.

    `cursors` are the name, bit and cursor of each outlet.
    """
    if not cursors:  # a repair could not read them: nothing is known to be passed
        return total(db, "")
    places = sorted({cursor for _, _, cursor in cursors})
    sums = []
    for start, end in pairwise([*places, sys.maxsize]):
        waiting = sum(1 << bit for _, bit, cursor in cursors if cursor <= start)
        sums.append(total(db, "WHERE position>? AND position<=? AND takers & ?", start, end, waiting))
    batches, events, size = zip(*sums, strict=True)
    return sum(batches), sum(events), sum(size)


def oldest(db: sqlite3.Connection, where: str, *values: int) -> int:
    """Return when the first of the batches that a condition picks came in, in Unix nanoseconds; 0: not known."""
    query = f"SELECT coalesce(min(nullif(enqueued_ns, 0)), 0) FROM batch {where}"
    return int(db.execute(query, values).fetchone()[0])
