"""From the events of a batch to records, some at a time: the client sends the first while the others are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import TypeAlias

from polku.batch.batch import Batch
from polku.batch.frames import split_frames
from polku.contracts import Failure
from polku.emit.encode import cause_trace, note_unwritable
from polku.event.v1.event_pb2 import Event
from polku.kafka.client import UnfitError
from polku.kafka.columns import ColumnReader
from polku.kafka.record import Record, RecordMaker
from polku.kafka.scanning import Scanner
from polku.text import said

_CHUNK = 500

Absence: TypeAlias = Callable[[str], str]


class BatchReader:
    """Make records; `mirrored` is the topic of those that are sent as they came, empty for their own topics.

    None: a maker makes each of its event.
    """

    def __init__(self, maker: RecordMaker, mirrored: str | None) -> None:
        self._maker = maker
        self._scanner = None if mirrored is None else Scanner(mirrored)
        self._columns = None if mirrored is None else ColumnReader(mirrored)

    def read(self, batch: Batch, failures: list[Failure], absence: Absence | None) -> Iterator[Sequence[Record]]:
        """Make the records of a batch, some at a time; add the failures of events that can be none.

        `absence` returns why a topic cannot be written, empty where it can.
        """
        frames = split_frames(batch.payload)
        events = batch.events if self._scanner is None or not batch.is_sealed else None
        for start in range(0, len(frames), _CHUNK):
            some, before = frames[start : start + _CHUNK], len(failures)
            records: Sequence[Record] | None = None
            if self._columns is not None and absence is None:
                records = self._columns.read(some, start)
            if records is None:
                records = self._read_each(some, start, events, failures, absence)
            if len(failures) > before:
                note_unwritable(failures[before:])
            if records:
                yield records

    def _read_each(
        self,
        frames: Sequence[bytes],
        start: int,
        events: Sequence[Event] | None,
        failures: list[Failure],
        absence: Absence | None,
    ) -> list[Record]:
        records: list[Record] = []
        found = repeat(None) if self._scanner is None else self._scanner.scan(frames, start)
        for position, (record, frame) in enumerate(zip(found, frames, strict=False), start):
            if record is None:
                event = Event.FromString(frame) if events is None else events[position]
                try:
                    record = self._maker.make(event, frame, position)
                except UnfitError as error:
                    reason, trace = said(error), cause_trace(error)
                    failures.append(Failure(event.id, reason, False, position=position, detail=trace))
                    continue
            reason = absence(record.topic) if absence is not None else ""
            if reason:
                failures.append(Failure(record.event_id, reason, retryable=False, position=position))
            else:
                records.append(record)
        return records
