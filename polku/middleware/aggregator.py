"""Make one event of many."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from polku import checks
from polku.clock import Clock
from polku.contracts import Flush, Holder, Part
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.events import new_id

Key = Callable[[Event], object]


class Strategy(StrEnum):
    """Say what the payload of an aggregate is made of."""

    JSON_ARRAY = "json_array"
    """A JSON array of the payloads: those that are JSON as they are, other text as strings, other bytes as base64."""
    CONCAT = "concat"
    """The payloads, one after the other."""
    FIRST = "first"
    """The first event, as it came."""
    LAST = "last"
    """The last event, as it came."""


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Collect events of one group and let one event go for `size` of them, or `within` seconds after the first.

    A group is all events of one source and type, or of one `key(event)`. The aggregate has a new id, the time, source
    and type of the group's first event, and metadata `polku.aggregate.count`. Senders are answered when the aggregate
    has been taken further, so they wait for up to `within`. At most `max_held` events and `max_bytes` bytes are kept
    back; over it, all groups are let go at once. A drain lets everything go.
    """

    size: int
    within: float
    key: Key | None = field(default=None, kw_only=True)
    strategy: Strategy | str = field(default=Strategy.JSON_ARRAY, kw_only=True)
    max_held: int = field(default=10_000, kw_only=True)
    max_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)

    state_key = "group"
    holds = True

    def __post_init__(self) -> None:
        checks.at_least_one("Aggregator", "size", self.size)
        checks.positive("Aggregator", "within", self.within)
        checks.at_least_one("Aggregator", "max_held", self.max_held)
        checks.at_least_one("Aggregator", "max_bytes", self.max_bytes)
        if self.key is not None:
            checks.function("Aggregator", "key", self.key)
        try:
            object.__setattr__(self, "strategy", Strategy(self.strategy))
        except ValueError:
            names = ", ".join(repr(str(known)) for known in Strategy)
            raise PlanError(f"strategy={self.strategy!r} is not known; choose {names}", where="Aggregator") from None

    def build(self, clock: Clock) -> Holder:
        """Make the running aggregator."""
        return _Groups(self, clock)


class _Group:
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
        self._combine = _COMBINE[Strategy(config.strategy)]
        self._key: Key = config.key or _source_and_type
        self._clock = clock
        self._groups: dict[object, _Group] = {}  # in the order of their first events, so the first is due first
        self._events = self._bytes = 0

    @property
    def held(self) -> tuple[int, int]:
        return self._events, self._bytes

    @property
    def limit(self) -> tuple[int, int]:
        return self._config.max_held, self._config.max_bytes

    def hold(self, events: list[Event], batch: int) -> Sequence[Flush]:
        flushes = []
        due = self._clock.monotonic() + self._config.within
        for event in events:
            key = self._key(event)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _Group(due)
            size = event.ByteSize()
            group.events.append(event)
            group.parts.append(Part(batch, event.id))
            group.bytes += size
            self._events += 1
            self._bytes += size
            if len(group.events) >= self._config.size:
                flushes.append(self._let_go(key))
        return flushes

    def due(self) -> float | None:
        return next((group.due for group in self._groups.values()), None)

    def flush(self, *, everything: bool = False) -> Sequence[Flush]:
        now = self._clock.monotonic()
        return [self._let_go(key) for key, group in list(self._groups.items()) if everything or group.due <= now]

    def _let_go(self, key: object) -> Flush:
        group = self._groups.pop(key)
        self._events -= len(group.events)
        self._bytes -= group.bytes
        return Flush([self._combine(group.events)], group.parts)


def _source_and_type(event: Event) -> object:
    return event.source, event.event_type


def _aggregate(events: list[Event], payload: bytes) -> Event:
    out = Event()
    out.CopyFrom(events[0])
    out.ClearField("data")
    out.payload = payload
    return _mark(out, len(events))


def _mark(event: Event, count: int) -> Event:
    event.id = new_id()
    event.metadata["polku.aggregate.count"] = str(count)
    return event


def _copy(event: Event, count: int) -> Event:
    out = Event()
    out.CopyFrom(event)
    return _mark(out, count)


def _json_array(events: list[Event]) -> Event:
    return _aggregate(events, b"[" + b",".join(_as_json(event.payload) for event in events) + b"]")


def _as_json(payload: bytes) -> bytes:
    import base64

    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return json.dumps(base64.b64encode(payload).decode()).encode()
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return json.dumps(text).encode()
    return payload


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_COMBINE: dict[Strategy, Callable[[list[Event]], Event]] = {
    Strategy.JSON_ARRAY: _json_array,
    Strategy.CONCAT: lambda events: _aggregate(events, b"".join(event.payload for event in events)),
    Strategy.FIRST: lambda events: _copy(events[0], len(events)),
    Strategy.LAST: lambda events: _copy(events[-1], len(events)),
}
