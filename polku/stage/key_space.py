"""Which partition of a divided stage a key belongs to: alike in every process, on every machine and Python version.

The hash of a key names one of `SLOTS` slots, and each slot belongs to a partition. One partition more takes its share
of the slots from those that there are, and nothing else moves (consistent hashing): of `n` partitions each has 1/n of
the slots, to within one, and between `n` and `n + 1` partitions 1/(n + 1) of the keys change hands.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from numbers import Number, Rational
from typing import Any, Final, cast

SLOTS: Final = 4096
MOST_PARTITIONS: Final = 128
"""The most partitions of one stage: up to here their shares differ by 3 % at most."""

_GOLDEN = 0x9E3779B1  # the prime nearest to 2^32 over the golden ratio
_SHIFT = 20  # of 32 bits leaves 12: a slot


class KeySpace:
    """The keys of a stage that has this number of partitions, numbered from 0."""

    __slots__ = ("_owners", "partitions")

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._owners = owners(partitions)

    def partition_of(self, key: Hashable) -> int:
        """Return the partition that a key belongs to: equal keys belong to the same one."""
        return self._owners[slot_of(key)]

    def partitions_of(self, keys: Sequence[Hashable]) -> list[int]:
        """Return the partition of each key: for texts at half the price."""
        owners = self._owners
        if set(map(type, keys)) != {str}:
            return [owners[slot_of(key)] for key in keys]
        checksum, last, texts = zlib.crc32, SLOTS - 1, map(str.encode, cast("Sequence[str]", keys))
        try:
            return [owners[checksum(data) * _GOLDEN >> _SHIFT & last] for data in texts]
        except UnicodeEncodeError:  # a surrogate
            return [owners[slot_of(key)] for key in keys]


@cache
def owners(partitions: int) -> bytes:
    """Return the partition of each slot, for 1 to `MOST_PARTITIONS` partitions."""
    slots: list[list[int]] = [list(range(SLOTS))]
    for partition in range(1, partitions):
        taken = [_fullest(slots).pop() for _ in range(SLOTS // (partition + 1))]
        slots.append(taken)
    found = bytearray(SLOTS)
    for partition, own in enumerate(slots):
        for slot in own:
            found[slot] = partition
    return bytes(found)


def _fullest(slots: list[list[int]]) -> list[int]:
    return max(slots, key=len)  # of several the first


def slot_of(key: Hashable) -> int:
    """Return the slot of a key: 0.2 µs for a text.

    Multiplying a CRC-32 (Knuth, The Art of Computer Programming 3, 6.4) spreads keys that differ in a few bits.
    """
    data = key.encode("utf-8", "surrogatepass") if type(key) is str else bytes_of(key)
    return zlib.crc32(data) * _GOLDEN >> _SHIFT & SLOTS - 1


def bytes_of(key: Any) -> bytes:
    """Return bytes that are the same for equal keys, and others for others, as a rule.

    They are known of text, bytes, numbers, enumerations, and of tuples, frozen sets and dataclasses of these. All other
    keys have the same ones: what is divided by such keys is all in one partition.
    """
    match key:
        case str():
            return str.encode(key, "utf-8", "surrogatepass")
        case bytes():
            return key
        case Number():
            return _of_number(key)
        case tuple():
            return _joined([bytes_of(item) for item in key])
        case frozenset():
            return _joined(sorted(bytes_of(item) for item in key))
        case Enum():
            return f"{type(key).__qualname__}.{key.name}".encode()
        case _ if is_dataclass(key):
            return _joined([bytes_of(getattr(key, field.name)) for field in fields(key) if field.compare])
        case _:
            return b""


def _of_number(key: Any) -> bytes:
    """Return the same for `1`, `1.0`, `True` and `Fraction(1)`, which are one key."""
    if isinstance(key, float):
        return (f"{int(key):x}" if key.is_integer() else key.hex()).encode()
    if isinstance(key, Rational) and key.denominator == 1:
        return f"{int(key.numerator):x}".encode()
    try:
        return _of_number(float(key))
    except (OverflowError, TypeError, ValueError):
        return b""


def _joined(items: list[bytes]) -> bytes:
    return b"".join(b"%d:%b" % (len(item), item) for item in items)
