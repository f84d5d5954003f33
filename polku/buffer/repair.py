"""Make a journal whole again from what can be read of it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from polku.batch import Batch
from polku.buffer.journal import Journal, Row, Work
from polku.buffer.lock import FileLock
from polku.errors import JournalError


class Salvage(NamedTuple):
    """What a repair achieved: batches kept, batches lost (known of), the faults found, where the old file is."""

    path: str
    kept: int
    lost: int
    faults: tuple[str, ...]
    old: str

    def __str__(self) -> str:
        faults = "; ".join(self.faults[:5]) or "none named"
        return (
            f"journal {self.path}: {self.kept} batches kept, {self.lost} lost, faults: {faults}; "
            f"the old file is {self.old}"
        )


def salvage(path: str | Path) -> Salvage:
    """Move a journal aside and write a new one with every batch, cursor and answer that can be read.

    Raises `JournalLockedError` where a process has it open.
    """
    path = Path(path)
    FileLock(path).release()
    old = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{old}{suffix}")
    faults: list[str] = []
    journal = Journal(path)
    try:
        kept = _copy(old, journal, faults)
        lost = sum("position" in fault for fault in faults)
        if lost:
            journal.count_lost(lost)
    finally:
        journal.close()
    return Salvage(str(path), kept, lost, tuple(faults), str(old))


def _copy(old: Path, journal: Journal, faults: list[str]) -> int:
    try:
        source = Journal(old, writable=False)
    except JournalError as error:
        faults.append(error.reason)
        return 0
    try:
        journal.adopt(_outlets(source, faults))
        kept = 0
        for position, batch, takers in _batches(source, faults):
            journal.write(Work([Row(position, takers, batch.header, batch.payload)], (), {}))
            kept += 1
        with contextlib.suppress(sqlite3.Error, JournalError):
            journal.write(Work((), source.answers(), {}))
        return kept
    finally:
        source.close()


def _outlets(source: Journal, faults: list[str]) -> list[tuple[str, int, int]]:
    try:
        return source.cursors()
    except (sqlite3.Error, JournalError) as error:
        faults.append(f"the cursors: {error}")
        return []


def _batches(source: Journal, faults: list[str]) -> Iterator[tuple[int, Batch, tuple[str, ...]]]:
    """Yield what can be read, from the front and, past what is damaged, from the back."""
    seen: set[int] = set()
    for backwards in (False, True):
        for position in source.positions(backwards=backwards):
            if position in seen:
                break
            seen.add(position)
            try:
                batch = source.read(position)
                yield position, batch, source.takers(position)
            except KeyError:
                continue
            except (sqlite3.Error, JournalError) as error:
                faults.append(getattr(error, "reason", str(error)))
