"""A share of the events, chosen by a key: alike for all events of one key, and in every process."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from polku import checks
from polku.event.v1.event_pb2 import Event

Key = Callable[[Event], object]

_FIELDS = ("id", "source", "event_type")
_GOLDEN = 0x9E3779B1  # the prime nearest to 2^32 over the golden ratio
_MASK = 2**32 - 1


def share_by_key(rate: float, seed: int, key: Key) -> Callable[[Event], bool]:
    """Choose by a checksum of the key, which is alike everywhere.

    CRC-32 alone will not do: under another seed all its values change by one and the same XOR. Multiplying (Knuth,
    The Art of Computer Programming 3, 6.4) and folding makes choices of different seeds independent.
    """
    limit = round(rate * 2**32)
    salt = zlib.crc32(str(seed).encode()) * _GOLDEN & _MASK
    crc32 = zlib.crc32

    def choose(event: Event) -> bool:
        mixed = (crc32(str(key(event)).encode("utf-8", "surrogatepass")) ^ salt) * _GOLDEN & _MASK
        return (mixed ^ mixed >> 15) * _GOLDEN & _MASK < limit

    return choose


def key_function(where: str, key: str | Key) -> Key:
    """Return the function of a key: a field, an entry of the metadata, or a function itself; raises `PlanError`."""
    if callable(key):
        checks.function(where, "key", key, sync=True)
        return key
    kind, _, name = str(key).partition(".")
    if kind == "metadata" and name:
        return _Metadata(name)
    if key in _FIELDS:
        return attrgetter(key)
    raise checks.fault(where, "key", key, f"must be {checks.either((*_FIELDS, 'metadata.NAME'))}, or a function")


@dataclass(frozen=True, slots=True)
class _Metadata:
    name: str

    def __call__(self, event: Event) -> object:
        return event.metadata.get(self.name) or event.id
