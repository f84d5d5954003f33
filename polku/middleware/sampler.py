"""Keep a share of the events."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from polku import checks
from polku.clock import Clock
from polku.contracts import Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.filter import keep
from polku.middleware.per_event import Each, chosen
from polku.middleware.shares import Key, key_function, share_by_key


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
            key_function("Sampler", self.key)

    def build(self, clock: Clock) -> Step:
        """Make the running sampler."""
        if self.key is None:
            return _Chance(self.rate, self.seed)
        choose = share_by_key(self.rate, self.seed or 0, key_function("Sampler", self.key))
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
