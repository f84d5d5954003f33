"""Check what a pipeline did with the events that it was sent: nothing acknowledged may be lost, whatever happened.

The oracle makes numbered events that carry a checksum of themselves, is told what was acknowledged and what arrived
where, and gives its verdict. It keeps a few bytes an event, so it can watch millions of them.

```python
from polku.testing import Oracle

oracle = Oracle(emitters=["archive"])
events = oracle.events("sensor-1", 100)
oracle.acknowledged(event.id for event in events)     # what the receipts or Acks said
oracle.delivered("archive", events)                   # what the destination has
oracle.verdict().check()
```
"""

from __future__ import annotations

import random
import zlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from polku.event.v1.event_pb2 import Event

_CHECKSUM = "oracle-crc32"


class Verdict(NamedTuple):
    """Count events: what was sent, what was acknowledged, and what went wrong with it.

    `lost` were acknowledged and did not arrive where they should, nor are they dead letters, nor dropped by rule;
    `invented` arrived and were never sent; `corrupted` arrived changed; `reordered` arrived for the first time after
    an event of their source that has a higher number; `duplicates` arrived more than once at one emitter (which at
    least once allows). `examples` name the first few of what went wrong.
    """

    sent: int
    acknowledged: int
    delivered: int
    lost: int
    invented: int
    corrupted: int
    reordered: int
    duplicates: int
    examples: tuple[str, ...]

    def check(self, *, duplicates: bool = True, order: bool = True) -> None:
        """Raise `AssertionError` if a promise was broken; `duplicates` and `order` say what may happen, and must hold.

        With `duplicates=False` an event may arrive once only; with `order=False` in any order.
        """
        broken = {"lost": self.lost, "invented": self.invented, "corrupted": self.corrupted}
        if order:
            broken["reordered"] = self.reordered
        if not duplicates:
            broken["duplicates"] = self.duplicates
        faults = [f"{count} {what}" for what, count in broken.items() if count]
        if faults:
            raise AssertionError(f"{', '.join(faults)} of {self.acknowledged} acknowledged: {self.examples}")

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items() if name != "examples")


class Oracle:
    """Make events, learn what became of them, and judge.

    Each acknowledged event must arrive at all `emitters`, and in the order of its source at those that are `ordered`
    (all, unless said otherwise).
    """

    def __init__(
        self,
        emitters: Sequence[str],
        *,
        ordered: Collection[str] | None = None,
        seed: int = 0,
        payload_bytes: int = 32,
    ) -> None:
        self.emitters = tuple(emitters)
        self._ordered = self.emitters if ordered is None else tuple(ordered)
        self._random = random.Random(seed)
        self._run = f"{self._random.getrandbits(32):08x}"
        self._payload_bytes = payload_bytes
        self._sent: dict[str, int] = {}
        self._acknowledged: dict[str, bytearray] = {}
        self._excused: dict[tuple[str, str], set[int]] = {}
        self._waived: dict[str, set[int]] = {}
        self._arrived: dict[tuple[str, str], array[int]] = {}
        self._highest: dict[tuple[str, str], int] = {}
        self._counts = dict.fromkeys(("delivered", "invented", "corrupted", "reordered", "duplicates"), 0)
        self._examples: list[str] = []

    def events(self, source: str, count: int) -> list[Event]:
        """Make the next events of a source."""
        first = self._sent.get(source, 0)
        self._sent[source] = first + count
        return [self._event(source, number) for number in range(first, first + count)]

    @property
    def sent(self) -> int:
        """The number of events made so far."""
        return sum(self._sent.values())

    def acknowledged(self, event_ids: Iterable[str]) -> None:
        """Learn that the pipeline has taken events."""
        for event_id in event_ids:
            source, number = self._read(event_id)
            if number < 0:
                self._fault("invented", f"{event_id} was acknowledged")
                continue
            flags = self._acknowledged.setdefault(source, bytearray())
            if len(flags) <= number:
                flags.extend(bytes(number + 4096 - len(flags)))
            flags[number] = 1

    def dead(self, emitter: str, event_ids: Iterable[str]) -> None:
        """Learn that events are dead letters or were dropped by rule, for an emitter (empty: for all of them)."""
        for event_id in event_ids:
            source, number = self._read(event_id)
            for name in (emitter,) if emitter else self.emitters:
                self._excused.setdefault((name, source), set()).add(number)

    def waive_order(self, event_ids: Iterable[str]) -> None:
        """Promise nothing about the order of events: they were refused once, and sent again later."""
        for event_id in event_ids:
            source, number = self._read(event_id)
            self._waived.setdefault(source, set()).add(number)

    def delivered(self, emitter: str, events: Iterable[Event]) -> None:
        """Learn what arrived at an emitter, in the order of its arrival."""
        for event in events:
            source, number = self._read(event.id)
            if number < 0:
                self._fault("invented", f"{event.id!r} arrived at {emitter}")
                continue
            if event.metadata[_CHECKSUM] != _checksum(event):
                self._fault("corrupted", f"{event.id} arrived changed at {emitter}")
            self._arrive(emitter, source, number, event.id)

    def verdict(self) -> Verdict:
        """Judge by what is known now."""
        lost, examples = 0, list(self._examples)
        for source, flags in self._acknowledged.items():
            for emitter in self.emitters:
                arrived = self._arrived.get((emitter, source), ())
                excused = self._excused.get((emitter, source), set())
                for number, flag in enumerate(flags):
                    if flag and not (number < len(arrived) and arrived[number]) and number not in excused:
                        lost += 1
                        if lost <= 5:
                            examples.append(f"{self._id(source, number)} never arrived at {emitter}")
        acknowledged = sum(map(sum, self._acknowledged.values()))
        return Verdict(self.sent, acknowledged, lost=lost, **self._counts, examples=tuple(examples))

    def _arrive(self, emitter: str, source: str, number: int, event_id: str) -> None:
        key = emitter, source
        arrived = self._arrived.setdefault(key, array("B"))
        if len(arrived) <= number:
            arrived.frombytes(bytes(number + 4096 - len(arrived)))
        if arrived[number]:
            self._counts["duplicates"] += 1
            return
        arrived[number] = 1
        self._counts["delivered"] += 1
        if emitter not in self._ordered or number in self._waived.get(source, ()):
            return
        if number < self._highest.get(key, -1):
            self._fault("reordered", f"{event_id} came to {emitter} after number {self._highest[key]}")
        else:
            self._highest[key] = number

    def _event(self, source: str, number: int) -> Event:
        event = Event(id=self._id(source, number), source=source, event_type="oracle", timestamp_unix_ns=number + 1)
        event.payload = self._random.randbytes(self._payload_bytes)
        event.metadata[_CHECKSUM] = _checksum(event)
        return event

    def _id(self, source: str, number: int) -> str:
        return f"{self._run}:{source}:{number}"

    def _read(self, event_id: str) -> tuple[str, int]:
        """Return the source and number of an event of ours; -1 for any other."""
        run, _, rest = event_id.partition(":")
        source, _, text = rest.rpartition(":")
        if run != self._run or not text.isdecimal() or int(text) >= self._sent.get(source, 0):
            return source, -1
        return source, int(text)

    def _fault(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= 5:
            self._examples.append(example)


def _checksum(event: Event) -> str:
    """Return the checksum of what no pipeline may change: id, source and payload."""
    return f"{zlib.crc32(event.payload, zlib.crc32(f'{event.id} {event.source}'.encode())):08x}"
