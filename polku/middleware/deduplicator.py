"""Drop events whose id was seen before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import Follows, Outcome, Step
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.keys import bounded_keys, key_within
from polku.middleware.partition_key import PartitionOf
from polku.middleware.per_event import chosen
from polku.middleware.seen_log import SeenLog, Share

_SAME_CLOCK_SECONDS = 5.0  # between a snapshot and its restoring: to look at each id would hold the pipeline up


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Deduplicator(Configuration):
    """Drop events whose id was seen within the last `ttl` seconds, remembering at most `max_ids` of them.

    Dropped events count as deduplicated. An id counts as seen only once its event has been taken further down: what
    was refused may be sent again. A duplicate of an event that is still in flight is answered when that one is, and
    as it is. Events without an id pass. With `per`, the name of a metadata entry such as a tenant's, ids of events with
    different values of it are different ids. Where events are stamped with their principal (`Hub.security`) that is
    what it is without a word, so that no client can make the ids of others known.

    With `durable` it knows after a restart what it knew before it, by files beside the journal (`JOURNAL.NAME.ids`), or
    at a path that is given; without it, it begins with nothing. It needs a durable buffer, or duplicates would be
    dropped whose first was lost in memory. What a machine that loses power had not put on disk yet is forgotten.

    In `partitions` each remembers up to `max_ids`, and keeps files of its own (`JOURNAL.NAME.ids.2-of-4`); what was
    seen in another number of them is known too.
    """

    ttl: float = 300.0
    max_ids: int = 100_000
    per: str | None = None
    durable: bool | str = False

    state_key = "id"

    @property
    def state_form(self) -> str:
        """What its state looks like: middleware of the same form can take it over."""
        return f"ids 1 {self.per}"

    def __post_init__(self) -> None:
        checks.positive("Deduplicator", "ttl", self.ttl)
        checks.whole("Deduplicator", "max_ids", self.max_ids)
        checks.metadata_key("Deduplicator", "per", self.per)
        if not isinstance(self.durable, (bool, str)) or self.durable == "":
            raise PlanError(f"durable={self.durable!r} must be True, False or the path of a file", where="Deduplicator")

    def beside(self, journal: str, name: str) -> Deduplicator:
        """Return it with its file beside a journal, where it is durable and no other place was chosen.

        Raises `PlanError` where there is no journal.
        """
        if self.durable and not journal:
            fix = "add .buffer_strategy(BufferStrategy.durable(PATH)), or leave it out"
            raise PlanError(f"durable={self.durable!r} needs a durable buffer: {fix}", where="Deduplicator")
        return replace(self, durable=f"{journal}.{name}.ids") if self.durable is True else self

    def in_partition(self, number: int, partitions: int, partition_of: PartitionOf) -> object:
        """Return what one of several partitions builds, by its number from 0: it has files of its own."""
        return _Partition(self, Share(number, partitions, partition_of))

    def in_memory(self) -> Deduplicator:
        """Return it without a file, for a test."""
        return replace(self, durable=False)

    def partition_key(self, event: Event) -> str:
        """Return the key by which it is divided."""
        (key,) = self.partition_keys([event])
        return key

    def partition_keys(self, events: Sequence[Event]) -> list[str]:
        """Return the keys under which it keeps what it has seen."""
        per = self.per
        if per is None:
            return bounded_keys([event.id for event in events])
        ids = [key_within(event.metadata.get(per, ""), event.id) if event.id else "" for event in events]
        return bounded_keys(ids)

    def split_state(
        self, state: Mapping[str, Any], partitions: int, partition_of: PartitionOf
    ) -> list[Mapping[str, Any]]:
        """Divide what is seen by its keys; no batch is open then."""
        seen: list[OrderedDict[str, float]] = [OrderedDict() for _ in range(partitions)]
        for key, at in state["seen"].items():
            seen[partition_of(key)][key] = at
        return [_settled(own, state["now"]) for own in seen]

    def merge_states(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make one of several that had clocks of their own: the ages of ids count."""
        now = max(state["now"] for state in states)
        seen = [(at - state["now"] + now, key) for state in states for key, at in state["seen"].items()]
        return _settled(OrderedDict((key, at) for at, key in sorted(seen)), now)

    def build(self, clock: Clock) -> Step:
        """Make the running deduplicator."""
        return _build(self, clock)


@dataclass(frozen=True, slots=True)
class _Partition:
    """One partition's part of a deduplicator."""

    config: Deduplicator
    share: Share

    def build(self, clock: Clock) -> Step:
        """Make the running deduplicator."""
        return _build(self.config, clock, self.share)


def _build(config: Deduplicator, clock: Clock, share: Share | None = None) -> Step:
    path = config.durable
    log = SeenLog(path, config.ttl, config.max_ids, clock, share) if isinstance(path, str) else None
    return _Memory(config, clock, log)


def _settled(seen: OrderedDict[str, float], now: float) -> Mapping[str, Any]:
    return {"seen": seen, "now": now, "open": {}, "batches": {}, "log": ""}


class _Memory:
    name = "Deduplicator"
    drop_reason = "deduplicated"
    reads_only = True

    def __init__(self, config: Deduplicator, clock: Clock, log: SeenLog | None) -> None:
        self._log = log
        self._keys = config.partition_keys
        self._ttl = config.ttl
        self._max_ids = config.max_ids
        self._clock = clock
        self._seen: OrderedDict[str, float] = (
            OrderedDict()
        )  # id -> when it was settled, oldest first; of a long one a digest
        self._open: dict[str, int] = {}  # id -> the batch that it is in flight in; the pipeline's windows bound it
        self._batches: dict[int, list[str]] = {}  # what each open batch brought first, by position; empty: not this one

    def start(self) -> None:
        """Remember what was seen before a restart."""
        if self._log is not None:
            now = self._clock.monotonic()
            for age, ids in self._log.read():
                for event_id in ids:
                    self._seen.pop(event_id, None)  # it may be there with an earlier time: its place is behind
                    self._seen[event_id] = now - age
            self._shrink()

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()

    def process(self, events: list[Event], batch: int) -> Outcome:
        self._forget()
        ids = self._keys(events)
        if self._all_new(ids):
            self._open.update(dict.fromkeys(ids, batch))
            self._batches[batch] = ids
            return Outcome(events)
        return self._sift(events, ids, batch)

    def _all_new(self, ids: list[str]) -> bool:
        unique = set(ids)
        is_new = self._open.keys().isdisjoint(unique) and self._seen.keys().isdisjoint(unique)
        return is_new and len(unique) == len(ids) and "" not in unique

    def _sift(self, events: list[Event], given: list[str], batch: int) -> Outcome:
        fresh = bytearray(len(given))
        follows: list[Follows] = []
        ids = [""] * len(given)  # those that this batch is the first to bring, at their positions
        self._batches[batch] = ids
        for position, event_id in enumerate(given):
            first = self._open.get(event_id)
            if first is not None:
                follows.append(Follows(position, first, self._batches[first].index(event_id)))
            elif event_id not in self._seen:
                fresh[position] = 1
                if event_id:
                    self._open[event_id] = batch
                    ids[position] = event_id
        return Outcome(events) if all(fresh) else chosen(events, bytes(fresh))._replace(follows=follows)

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        now = self._clock.monotonic()
        ids = self._batches.pop(batch, ())
        for position, event_id in enumerate(ids):
            if event_id:
                del self._open[event_id]
                if position not in refused:
                    self._seen[event_id] = now
        self._shrink()
        if self._log is not None:
            new = [event_id for position, event_id in enumerate(ids) if event_id and position not in refused]
            if new:
                self._log.add(new, self._seen)

    def _shrink(self) -> None:
        while len(self._seen) > self._max_ids:
            self._seen.popitem(last=False)

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state: when ids were settled, when it is now, and those that have no outcome yet.

        It is no copy: 100,000 ids take 80 ms to copy, in which the pipeline would stand.
        """
        state = {"seen": self._seen, "now": self._clock.monotonic(), "open": self._open, "batches": self._batches}
        return {**state, "log": "" if self._log is None else self._log.path}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another one, which has the same stage.

        Of a clock that is not this one the ages of ids count. Where it is durable, and they were elsewhere, all are on
        disk at the return; raises `OSError` where they cannot be.
        """
        shift = self._clock.monotonic() - state["now"]
        self._seen = state["seen"]
        if abs(shift) > _SAME_CLOCK_SECONDS:
            self._seen = OrderedDict((event_id, at + shift) for event_id, at in self._seen.items())
        self._open, self._batches = state["open"], state["batches"]
        if self._log is not None and state["log"] != self._log.path:
            self._log.write(self._seen)

    def _forget(self) -> None:
        limit = self._clock.monotonic() - self._ttl
        while self._seen and next(iter(self._seen.values())) <= limit:
            self._seen.popitem(last=False)
