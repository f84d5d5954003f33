"""Keep a share of the events."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from polku import checks
from polku.clock import Clock
from polku.contracts import Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.filter import keep
from polku.middleware.per_event import Each, chosen

Key = Callable[[Event], object]

_FIELDS = ("id", "source", "event_type")
_GOLDEN = 0x9E3779B1  # the prime nearest to 2^32 over the golden ratio
_MASK = 2**32 - 1


@dataclass(frozen=True, slots=True, repr=False)
class Sampler(Configuration):
    """Keep each event with probability `rate` (0 to 1); the others count as sampled out.

    With a `key` (`"id"`, `"source"`, `"event_type"`, `"metadata.NAME"`, or a function of the event) the choice is
    made once for each key, and alike in every process: events of one key are all kept or all dropped. Events without
    that metadata are chosen by their id. `seed` makes the choice repeatable, and, with a key, another one. An event
    on which a key function raises becomes a dead letter.
    """

    rate: float
    seed: int | None = field(default=None, kw_only=True)
    key: str | Key | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        checks.fraction("Sampler", "rate", self.rate)
        if self.seed is not None and not isinstance(self.seed, int):
            raise checks.fault("Sampler", "seed", self.seed, "must be a whole number, or None for chance")
        if self.key is not None:
            _key_function(self.key)

    def build(self, clock: Clock) -> Step:
        """Make the running sampler."""
        if self.key is None:
            return _Chance(self.rate, self.seed)
        choose = _by_key(self.rate, self.seed or 0, _key_function(self.key))
        return Each("Sampler", choose, keep, drop_reason="sampled_out", reads_only=True)


class _Chance:
    name = "Sampler"
    drop_reason = "sampled_out"
    reads_only = True

    def __init__(self, rate: float, seed: int | None) -> None:
        self._rate = rate
        self._random = random.Random(seed).random

    def process(self, events: list[Event], batch: int) -> Outcome:
        draw, rate = self._random, self._rate
        kept = bytes([draw() < rate for _ in events])
        return Outcome(events) if all(kept) else chosen(events, kept)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass


def _by_key(rate: float, seed: int, key: Key) -> Callable[[Event], bool]:
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


@dataclass(frozen=True, slots=True)
class _Metadata:
    name: str

    def __call__(self, event: Event) -> object:
        return event.metadata.get(self.name) or event.id


def _key_function(key: str | Key) -> Key:
    if callable(key):
        checks.function("Sampler", "key", key, sync=True)
        return key
    kind, _, name = str(key).partition(".")
    if kind == "metadata" and name:
        return _Metadata(name)
    if key in _FIELDS:
        return attrgetter(key)
    raise checks.fault("Sampler", "key", key, f"must be {checks.either((*_FIELDS, 'metadata.NAME'))}, or a function")
