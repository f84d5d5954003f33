"""Ids of events: ULIDs (github.com/ulid/spec), of which those of one process and millisecond rise by one.

They are made here and not by python-ulid: measured in turns on one busy core, that takes 5.7 µs for one that is the
first of its millisecond and 5.3 µs for any other. This takes 3.1 µs, 0.9 µs, and 0.06 µs for each of many at once.
"""

from __future__ import annotations

import os
import threading
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_CHANCE_BITS = 80
_CHANCE_BYTES = 10
_CHANCES = 32
_LOW = (1 << 40) - 1
_ROOM = (1 << _CHANCE_BITS - 1) - 1  # half of the numbers of a millisecond are left for those that follow the first
_MOST_MILLISECONDS = (1 << 48) - 1


class IdGenerator:
    """Take numbers of 128 bits that are ULIDs: from any thread, each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = -1
        self._next = 0
        self._chances: list[int] = []
        self._head = (-1, "")  # all but 20 bits of the latest number, and the 22 characters that they are

    def take(self, count: int = 1) -> int:
        """Return the first of `count` numbers that follow each other."""
        milliseconds = time.time_ns() // 1_000_000
        with self._lock:
            if milliseconds != self._milliseconds:
                if not self._chances:
                    self._chances = _chances()
                self._milliseconds = milliseconds
                self._next = min(max(milliseconds, 0), _MOST_MILLISECONDS) << _CHANCE_BITS | self._chances.pop()
            first = self._next
            self._next = first + count
        return first

    def make(self) -> str:
        """Return one id."""
        number = self.take()
        return self._head_of(number >> 20) + _PAIRS[number >> 10 & 1023] + _PAIRS[number & 1023]

    def make_many(self, count: int) -> list[str]:
        """Return ids that follow each other."""
        number = self.take(count)
        end = number + count
        made: list[str] = []
        while number < end:  # up to 1,024 that differ in their last two characters
            head = self._head_of(number >> 20) + _PAIRS[number >> 10 & 1023]
            start = number & 1023
            made += [head + last for last in _PAIRS[start : start + end - number]]
            number += 1024 - start
        return made

    def _head_of(self, number: int) -> str:
        """Return the first 22 characters of ids, all but 20 bits of whose number are given."""
        known, head = self._head
        if number != known:
            head = ulid_text(number << 20)[:22]
            self._head = number, head
        return head


def _chances() -> list[int]:
    """Return some random numbers: asking the system for each would take longer than all the rest."""
    found = os.urandom(_CHANCES * _CHANCE_BYTES)
    starts = range(0, len(found), _CHANCE_BYTES)
    return [int.from_bytes(found[start : start + _CHANCE_BYTES], "big") & _ROOM for start in starts]


def ulid_text(number: int) -> str:
    """Return a number of 128 bits as a ULID: 26 characters of five bits each, the first of three."""
    first, second, third = number >> _CHANCE_BITS, number >> 40 & _LOW, number & _LOW
    return (
        f"{_PAIRS[first >> 40]}{_PAIRS[first >> 30 & 1023]}{_PAIRS[first >> 20 & 1023]}{_PAIRS[first >> 10 & 1023]}"
        f"{_PAIRS[first & 1023]}{_PAIRS[second >> 30]}{_PAIRS[second >> 20 & 1023]}{_PAIRS[second >> 10 & 1023]}"
        f"{_PAIRS[second & 1023]}{_PAIRS[third >> 30]}{_PAIRS[third >> 20 & 1023]}{_PAIRS[third >> 10 & 1023]}"
        f"{_PAIRS[third & 1023]}"
    )


_generator = IdGenerator()


def new_id() -> str:
    """Return a new ULID: 26 characters, sortable by time of creation (github.com/ulid/spec)."""
    return _generator.make()


def new_ids(count: int) -> list[str]:
    """Return new ULIDs that follow each other."""
    return _generator.make_many(count)


def _begin() -> None:
    global _generator
    _generator = IdGenerator()


os.register_at_fork(after_in_child=_begin)  # else parent and child would go on with the same numbers
