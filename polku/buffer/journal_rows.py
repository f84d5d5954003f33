"""The rows of a journal: what one transaction writes, and what is read from damaged pages."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from polku.batch.batch import Batch, Header, Identity
from polku.batch.receipt import Refusal
from polku.buffer.journal_file import BATCH, ENTRY, seal
from polku.buffer.remembered import StoredAnswer, read_answer
from polku.buffer.strategy import MAX_DURABLE_OUTLETS
from polku.errors import JournalCorruptError

_AT_ONCE = 64  # entries in one statement
_AT_ONCE_BYTES = 1024 * 1024  # of payload: what one statement writes is copied once
_PLACES = "(" + ",".join("?" * ENTRY) + ")"


class Row(NamedTuple):
    """A batch to be written: its position, the names of the outlets that it goes to, and itself."""

    position: int
    takers: tuple[str, ...]
    header: Header
    payload: bytes


class Transaction(NamedTuple):
    """What one transaction does.

    `refused` are refusals that came after the answers of their batches were written; `lost` is a number of batches that
    turned out to be damaged.
    """

    rows: Sequence[Row] = ()
    answers: Sequence[StoredAnswer] = ()
    cursors: Mapping[str, int] = {}
    refused: Sequence[tuple[Identity, Sequence[Refusal]]] = ()
    lost: int = 0


def to_statements(entries: Iterable[tuple[object, ...]]) -> Iterator[tuple[str, list[object]]]:
    """Yield places and values of statements that write the entries: so many in each as are worth copying at once."""
    values: list[object] = []
    count = size = 0
    for entry in entries:
        payload = entry[ENTRY - 2] if entry[0] == BATCH else b""
        weight = len(payload) if isinstance(payload, bytes) else 0
        if count == _AT_ONCE or (count and size + weight > _AT_ONCE_BYTES):
            yield ",".join([_PLACES] * count), values
            values, count, size = [], 0, 0
        values += entry
        values += [None] * (ENTRY - len(entry))
        count, size = count + 1, size + weight
    if count:
        yield ",".join([_PLACES] * count), values


def batch_of(path: Path, found: Sequence[object]) -> Batch:
    """Make a batch of a row; raises `JournalCorruptError` where its seal is broken."""
    *columns, sealed = found
    position, _, events, _, origin, epoch, seq, routes, enqueued_ns, trace, payload = columns
    if seal(*columns) != sealed or not isinstance(payload, bytes):
        reason = f"the batch at position {position} ({events} events of {origin}) is damaged"
        raise JournalCorruptError(path, reason)
    identity = None if origin is None else Identity(str(origin), int(str(epoch)), int(str(seq)))
    known = None if routes is None else tuple(json.loads(str(routes)))
    return Batch.from_wire(Header(int(str(events)), identity, known, int(str(enqueued_ns)), str(trace)), payload)


def read_answers(db: sqlite3.Connection) -> list[StoredAnswer]:
    """Return the answers that are remembered, oldest first; raises `ValueError` where one makes no sense.

    Which life of a sender is the older one is told by where its batches lie.
    """
    sender = "substr(origin, 1, instr(origin || '#', '#') - 1)"
    query = (
        "SELECT origin, epoch, seq, first, last, refused, pieces FROM answered "
        f"ORDER BY {sender}, max(last) OVER (PARTITION BY {sender}, epoch), epoch, seq"
    )
    answers = []
    for origin, *numbers, refused, pieces in db.execute(query):
        epoch, seq, first, last = read_numbers("an answer", numbers)
        try:
            answers.append(read_answer(Identity(origin, epoch, seq), first, last, refused, pieces))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"an answer makes no sense: {error}") from error
    return answers


def read_cursors(db: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """Return the name, bit and cursor of each outlet; raises `ValueError` where they make no sense."""
    cursors = db.execute("SELECT name, bit, cursor FROM outlet").fetchall()
    for name, bit, cursor in cursors:
        bit, _ = read_numbers(f"the cursor of {name!r}", (bit, cursor))
        if not isinstance(name, str) or not 0 <= bit < MAX_DURABLE_OUTLETS:
            raise ValueError(f"the outlet {name!r} (bit {bit}) makes no sense")
    return cursors


def read_numbers(what: str, values: Sequence[object]) -> list[int]:
    """Return values that must be whole numbers; raises `ValueError` where one is not."""
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(values):
        raise ValueError(f"{what} makes no sense: {values}")
    return numbers
