"""Make one event of many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import Flush, Holder, Part
from polku.event.v1.event_pb2 import Event
from polku.log import RepeatedLog
from polku.middleware.combine import Strategy, combine
from polku.middleware.configuration import Configuration
from polku.middleware.partition_key import PartitionOf
from polku.middleware.per_event import died
from polku.text import line, named

Key = Callable[[Event], Hashable]

ERROR = "polku.aggregate.error"
"""The metadata key under which an event that could not be given a group says why."""

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_FLUSHED_GROUPS = 256  # at once, of those that are due
_NONE: list[Flush] = []  # never changed
_part: Callable[[type[Part], tuple[int, int]], Part] = tuple.__new__  # an event's: half the time of `Part(…)`


@dataclass(frozen=True, slots=True, repr=False)
class Aggregator(Configuration):
    """Collect events of one group and let one event go for `size` of them, or `within` seconds after the first.

    A group is all events of one source and type, or of one `key(event)`; events that are routed to different emitters
    are never put together. The aggregate has an id that derives from the sources and ids of its parts and the time of
    the first (made again of the same parts, after a crash, it has the same), the source, type and time of that one, the
    highest severity, the outcome and the metadata that all have alike, and metadata `polku.aggregate.count`,
    `.first_unix_ns`, `.last_unix_ns` and `.strategy`; its payload is as `strategy` says. Senders are answered when the
    aggregate has been taken further, so they wait for up to `within`. At most `max_held` events and `max_bytes` bytes
    are kept back; over it, all groups are let go at once. A drain lets everything go.

    An event on which `key` raises (or for which it returns something unhashable), or which the strategy cannot put into
    a payload, goes on alone, with the reason in metadata `polku.aggregate.error`.
    """

    size: int
    within: float
    key: Key | None = field(default=None, kw_only=True)
    strategy: Strategy | str = field(default=Strategy.JSON_ARRAY, kw_only=True)
    max_held: int = field(default=10_000, kw_only=True)
    max_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)

    state_key = "group"
    state_form = "groups 1"
    holds = True

    def __post_init__(self) -> None:
        for name in ("size", "max_held", "max_bytes"):
            checks.whole("Aggregator", name, getattr(self, name))
        checks.positive("Aggregator", "within", self.within)
        if self.key is not None:
            checks.function("Aggregator", "key", self.key, sync=True)
        strategy = checks.choice("Aggregator", "strategy", self.strategy, Strategy)
        object.__setattr__(self, "strategy", strategy)

    def partition_key(self, event: Event) -> Hashable:
        """Return the key by which it is divided: those of one group are together."""
        return (self.key or _source_and_type)(event)

    def split_state(
        self, state: Mapping[str, Any], partitions: int, partition_of: PartitionOf
    ) -> list[Mapping[str, Any]]:
        """Divide the groups by their keys."""
        groups: list[list[object]] = [[] for _ in range(partitions)]
        for group in state["groups"]:
            _, events, _ = group
            groups[partition_of(self.partition_key(events[0]))].append(group)
        return [{"groups": own} for own in groups]

    def merge_states(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make one of several."""
        return {"groups": sorted((group for state in states for group in state["groups"]), key=itemgetter(0))}

    def build(self, clock: Clock) -> Holder:
        """Make the running aggregator."""
        return _Groups(self, clock)


class _Group:
    __slots__ = ("bytes", "due", "events", "parts")

    def __init__(self, due: float) -> None:
        self.due = due
        self.events: list[Event] = []
        self.parts: list[Part] = []
        self.bytes = 0


class _Groups:
    name = "Aggregator"
    drop_reason = "filtered"

    def __init__(self, config: Aggregator, clock: Clock) -> None:
        self._config = config
        self._strategy = Strategy(config.strategy)
        self._key: Key = config.key or _source_and_type
        self._clock = clock
        self._groups: dict[Hashable, _Group] = {}  # in the order of their first events, so the first is due first
        self._events = self._bytes = 0

    @property
    def held(self) -> tuple[int, int]:
        return self._events, self._bytes

    @property
    def limit(self) -> tuple[int, int]:
        return self._config.max_held, self._config.max_bytes

    def hold(self, events: list[Event], batch: int) -> Sequence[Flush]:
        flushes: list[Flush] = []
        due = self._clock.monotonic() + self._config.within
        for position, event in enumerate(events):
            flushes += self._put(event, _part(Part, (batch, position)), due)
        return flushes

    def _put(self, event: Event, part: Part, due: float) -> list[Flush]:
        try:
            routes = event.route_to
            key = (self._key(event), tuple(routes) if routes else ())
            group = self._groups.get(key)
            if group is None:
                group = self._groups.setdefault(key, _Group(due))
        except BaseException as error:
            return [self._alone(event, part, error)]
        size = event.ByteSize()
        group.events.append(event)
        group.parts.append(part)
        group.bytes += size
        self._events += 1
        self._bytes += size
        return self._release(key, group) if len(group.events) >= self._config.size else _NONE

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state: the events that are held, with their places, and in how many seconds each group is due."""
        now = self._clock.monotonic()
        return {"groups": [(g.due - now, list(g.events), list(g.parts)) for g in self._groups.values()]}

    def restore(self, state: Mapping[str, Any]) -> Sequence[Flush]:
        """Take over what another one holds, in groups of its own; return what is complete by its own rules."""
        flushes: list[Flush] = []
        now = self._clock.monotonic()
        for seconds, events, parts in state["groups"]:
            due = now + min(seconds, self._config.within)
            for event, part in zip(events, parts, strict=True):
                flushes += self._put(event, part, due)
        groups = sorted(self._groups.items(), key=lambda item: item[1].due)
        self._groups.clear()
        self._add(groups)
        return flushes

    def due(self) -> float | None:
        return next((group.due for group in self._groups.values()), None)

    def flush(self, *, everything: bool = False) -> Sequence[Flush]:
        now = self._clock.monotonic()
        due = [(key, group) for key, group in self._groups.items() if everything or group.due <= now]
        if not everything:  # the rest is due at once: to combine thousands would hold up everybody
            del due[_FLUSHED_GROUPS:]
        return [flush for key, group in due for flush in self._release(key, group)]

    def _release(self, key: Hashable, group: _Group) -> list[Flush]:
        self._remove(key, group)
        self._events -= len(group.events)
        self._bytes -= group.bytes
        try:
            return [self._together(group.events, group.parts)]
        except BaseException as error:
            return self._apart(group, error)

    def _remove(self, key: Hashable, group: _Group) -> None:
        """Take a group out, also where its key, an object of the user's, is not found by its hash any more."""
        try:
            if self._groups.get(key) is group:
                del self._groups[key]
                return
        except BaseException as error:
            fault = named(error)
        else:
            fault = "its hash or what it equals has changed"
        text = "a group cannot be found by its key (%s): events of one key may go in several aggregates"
        _REPEATED.warning((self.name, "key"), text, line(fault))
        others = []
        while (last := self._groups.popitem())[1] is not group:  # it asks no key for its hash
            others.append(last)
        self._add(reversed(others))

    def _add(self, groups: Iterable[tuple[Hashable, _Group]]) -> None:
        """Put groups behind the others; one whose key does not tell it apart takes no more events until it is due."""
        for key, group in groups:
            try:
                known = self._groups.setdefault(key, group)
            except BaseException:
                known = None
            if known is not group:
                self._groups[object()] = group

    def _together(self, events: list[Event], parts: list[Part]) -> Flush:
        return Flush([combine(events, self._strategy)], parts)

    def _apart(self, group: _Group, error: BaseException) -> list[Flush]:
        """Let events that cannot be put together with any others go alone, and the others together."""
        flushes, events, parts = [], [], []
        for event, part in zip(group.events, group.parts, strict=True):
            try:
                combine([event], self._strategy)
            except BaseException as own:
                flushes.append(self._alone(event, part, own, what="strategy"))
            else:
                events.append(event)
                parts.append(part)
        try:
            return [*flushes, self._together(events, parts)] if events else flushes
        except BaseException:
            pairs = zip(events, parts, strict=True)
            return [*flushes, *(self._alone(event, part, error, what="strategy") for event, part in pairs)]

    def _alone(self, event: Event, part: Part, error: BaseException, *, what: str = "key") -> Flush:
        dead = died(f"{self.name}: {what}", event, error)
        _REPEATED.warning(self.name, "event %s goes on alone: %s", line(event.id), dead.refusal.message)
        event.metadata[ERROR] = dead.refusal.message
        return Flush([event], [part])


def _source_and_type(event: Event) -> Hashable:
    return event.source, event.event_type
