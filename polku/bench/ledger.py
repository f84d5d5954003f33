"""Count by id, exactly: which events of a workload were seen, and how often.

Batches that were seen whole take a byte of memory each, others a byte for each of their events.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from polku.bench.workload import HEAD_BYTES, PREFIX

_INDEX = slice(len(PREFIX), len(PREFIX) + 5)
_NUMBER = slice(len(PREFIX) + 6, HEAD_BYTES)
_MOST = 255  # as often as a byte can count


class Ledger:
    """Keep what was seen of batches of `batch` events, sent over `lanes` connections in turn."""

    def __init__(self, batch: int, lanes: int = 1) -> None:
        self._batch = batch
        self._pieces = [PREFIX + b"%05d." % index for index in range(batch)] + [b""]
        self._first = self._pieces[0]
        self._whole = bytearray()
        self._parts: dict[int, bytearray] = {}
        self._latest = [(-1, -1)] * lanes
        self.reordered = 0

    def whole(self, number: bytes) -> bytes:
        """Return the heads (ids, each with tag and length) of a whole batch, joined."""
        return number.join(self._pieces)

    def take(self, heads: bytes) -> Iterator[tuple[int, int, bool]]:
        """Note joined heads; yield for each batch, or event of one, its first place, its length, and if it is new."""
        place, length = 0, self._batch * HEAD_BYTES
        while place < len(heads):
            head = heads[place : place + HEAD_BYTES]
            number = head[_NUMBER]
            if head.startswith(self._first) and heads.startswith(self.whole(number), place):
                yield place // HEAD_BYTES, self._batch, self._note_batch(int(number))
                place += length
            else:
                yield place // HEAD_BYTES, 1, self._note_event(int(number), int(head[_INDEX]))
                place += HEAD_BYTES

    def note_whole(self, number: int, answer: bytes) -> bool:
        """Note a batch, if an answer begins with all of it; say whether it does."""
        whole = answer.startswith(self.whole(b"%010d" % number))
        if whole:
            self._note_batch(number)
        return whole

    def note(self, heads: bytes) -> None:
        """Note joined heads."""
        for _ in self.take(heads):
            pass

    @property
    def seen(self) -> int:
        """The number of different events seen."""
        return sum(self._seen(number) for number in self._numbers())

    @property
    def duplicates(self) -> int:
        """How many events were seen again."""
        whole = sum(self._whole) * self._batch + sum(map(sum, self._parts.values()))
        return whole - self.seen

    def missing(self, other: Ledger) -> int:
        """Return how many events the other one has seen that this one has not."""
        return sum(self._missing(other, number) for number in other._numbers())

    def merge(self, others: Iterable[Ledger]) -> None:
        """Note what others have seen, as if it had come here."""
        for other in others:
            self._grow(len(other._whole) - 1)
            for number, times in enumerate(other._whole):
                self._whole[number] = min(_MOST, self._whole[number] + times)
            for number, times_each in other._parts.items():
                mine = self._parts.setdefault(number, bytearray(self._batch))
                for index, times in enumerate(times_each):
                    mine[index] = min(_MOST, mine[index] + times)
            self.reordered += other.reordered

    def to_json(self) -> dict[str, Any]:
        """Return all of it, for `from_json` in another process."""
        parts = {str(number): _pack(times) for number, times in self._parts.items()}
        return {"batch": self._batch, "whole": _pack(self._whole), "parts": parts, "reordered": self.reordered}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Ledger:
        """Read what `to_json` returned."""
        ledger = cls(fields["batch"])
        ledger._whole = _unpack(fields["whole"])
        ledger._parts = {int(number): _unpack(times) for number, times in fields["parts"].items()}
        ledger.reordered = fields["reordered"]
        return ledger

    def _note_batch(self, number: int) -> bool:
        self._grow(number)
        times = self._whole[number]
        new = not times and number not in self._parts
        self._whole[number] = min(_MOST, times + 1)
        if new:
            self._watch_order(number, self._batch - 1, number, 0)
        return new

    def _note_event(self, number: int, index: int) -> bool:
        times = self._parts.setdefault(number, bytearray(self._batch))
        new = not times[index] and not (number < len(self._whole) and self._whole[number])
        times[index] = min(_MOST, times[index] + 1)
        if new:
            self._watch_order(number, index, number, index)
        return new

    def _watch_order(self, number: int, index: int, first: int, first_index: int) -> None:
        lane = number % len(self._latest)
        if (first, first_index) < self._latest[lane]:
            self.reordered += 1
        else:
            self._latest[lane] = number, index

    def _grow(self, number: int) -> None:
        if number >= len(self._whole):
            self._whole.extend(bytes(number + 1 - len(self._whole) + len(self._whole) // 4))

    def _numbers(self) -> Iterator[int]:
        yield from (number for number, times in enumerate(self._whole) if times)
        yield from (number for number in self._parts if not (number < len(self._whole) and self._whole[number]))

    def _seen(self, number: int) -> int:
        if number < len(self._whole) and self._whole[number]:
            return self._batch
        return self._batch - self._parts[number].count(0)

    def _missing(self, other: Ledger, number: int) -> int:
        if number < len(self._whole) and self._whole[number]:
            return 0
        mine = self._parts.get(number)
        if mine is None:
            return other._seen(number)
        if number < len(other._whole) and other._whole[number]:
            return mine.count(0)
        return sum(1 for here, there in zip(mine, other._parts[number], strict=True) if there and not here)


def _pack(data: bytearray) -> str:
    return base64.b85encode(zlib.compress(bytes(data))).decode()


def _unpack(text: str) -> bytearray:
    return bytearray(zlib.decompress(base64.b85decode(text)))
