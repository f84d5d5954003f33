"""Bound the events per second of each source."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.bucket import TokenBucket
from polku.middleware.configuration import Configuration
from polku.middleware.keys import bounded_key, key_within
from polku.middleware.partition_key import PartitionOf
from polku.middleware.per_event import chosen

_SOURCE = attrgetter("source")


@dataclass(frozen=True, slots=True, repr=False)
class Throttle(Configuration):
    """Let `rate` events a second of each source pass, and up to `burst` (default: one second's worth) at once.

    The other events are dropped and count as rate limited. Buckets of the `max_sources` latest sources are kept, in
    each of its `partitions`; one that comes back after being forgotten starts with a full bucket.
    """

    rate: float
    burst: float | None = None
    max_sources: int = field(default=10_000, kw_only=True)
    per: str | None = field(default=None, kw_only=True)

    state_key = "source"

    @property
    def state_form(self) -> str:
        """What its state looks like: middleware of the same form can take it over."""
        return f"buckets 1 {self.per}"

    def __post_init__(self) -> None:
        checks.positive("Throttle", "rate", self.rate)
        checks.whole("Throttle", "max_sources", self.max_sources)
        checks.metadata_key("Throttle", "per", self.per)
        if self.burst is not None:
            checks.at_least_one("Throttle", "burst", self.burst)

    def partition_key(self, event: Event) -> str:
        """Return the key by which it is divided."""
        if self.per is None:
            return bounded_key(event.source)
        return bounded_key(key_within(event.metadata.get(self.per, ""), event.source))

    def split_state(
        self, state: Mapping[str, Any], partitions: int, partition_of: PartitionOf
    ) -> list[Mapping[str, Any]]:
        """Divide the tokens by their keys."""
        tokens: list[list[tuple[str, float]]] = [[] for _ in range(partitions)]
        for key, left in state["tokens"]:
            tokens[partition_of(key)].append((key, left))
        return [{"tokens": own} for own in tokens]

    def merge_states(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make one of several; which of them has used a key last is not known."""
        return {"tokens": [each for state in states for each in state["tokens"]]}

    def build(self, clock: Clock) -> Step:
        """Make the running throttle."""
        return _Buckets(self.rate, self.burst or max(self.rate, 1.0), self.max_sources, self.per, clock)


class _Buckets:
    name = "Throttle"
    drop_reason = "rate_limited"
    reads_only = True

    def __init__(self, rate: float, burst: float, max_sources: int, per: str | None, clock: Clock) -> None:
        self._per = per
        self._rate = rate
        self._burst = burst
        self._max_sources = max_sources
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # least recently used first

    def process(self, events: list[Event], batch: int) -> Outcome:
        now = self._clock.monotonic()
        sources = self._keys(events)
        wanted = Counter(sources)
        allowed = {source: self._bucket(source, now).take(count, now) for source, count in wanted.items()}
        if allowed == wanted:
            return Outcome(events)
        kept = bytearray(len(events))
        for place, source in enumerate(sources):
            if allowed[source]:
                allowed[source] -= 1
                kept[place] = 1
        return chosen(events, bytes(kept))

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        pass

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state: the tokens of each source, least recently used first."""
        now = self._clock.monotonic()
        return {"tokens": [(source, bucket.left(now)) for source, bucket in self._buckets.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another one; more tokens than this one's burst are forfeited."""
        now = self._clock.monotonic()
        for source, tokens in state["tokens"][-self._max_sources :]:
            self._buckets[source] = TokenBucket(self._rate, self._burst, now, tokens)

    def _keys(self, events: list[Event]) -> list[str]:
        per = self._per
        if per is None:
            return list(map(_SOURCE, events))
        return [key_within(event.metadata.get(per, ""), event.source) for event in events]

    def _bucket(self, source: str, now: float) -> TokenBucket:
        source = bounded_key(source)
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = TokenBucket(self._rate, self._burst, now)
            if len(self._buckets) > self._max_sources:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(source)
        return bucket
