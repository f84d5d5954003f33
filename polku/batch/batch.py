"""Many events that travel together: the unit of every hop, acknowledgement, retry and measurement.

A batch is bytes (a serialised `EventPayload`) until somebody looks at its events, and events until somebody needs
bytes again. Both forms are kept while they agree, so a batch that nobody looks at is never decoded and one that
nobody changed is never encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from polku.batch.frames import first_id, has_routes, join_frames, split_frames
from polku.event.v1.event_pb2 import Event
from polku.lazy import pattern
from polku.v1.gateway_pb2 import EventPayload

MOST_TRACES = 32
"""How many `traceparent`s travel with a batch."""

_ROUTES = attrgetter("route_to")
_PIECE = pattern(r"#(\d+)-(\d+)$", re.ASCII)
_DERIVED = pattern(r"(?:#(?:\d+-\d+|=[0-9a-f]+))+$", re.ASCII)


class Identity(NamedTuple):
    """Name a batch for good: who first sent it, in which life of that sender, and its number there (from 1).

    What is derived from that batch has its number, and an origin that says how: `#2-5` is a piece of it, `#=` and a
    digest is what steps made of it by dropping, splitting, merging or reordering events.
    """

    origin: str
    epoch: int
    seq: int

    def piece(self, start: int, events: int) -> Identity:
        """Return the identity of a piece: `events` of the batch, or of this piece of it, from the one at `start` on."""
        batch, place = self.place
        first = start if place is None else place.start + start
        return batch._replace(origin=f"{batch.origin}#{first}-{first + events}")

    def made(self, digest: str) -> Identity:
        """Return the identity of what steps made of the batch; a hexadecimal `digest` says which events are where.

        What was made otherwise is another batch: answers about the one are not about the other.
        """
        return self._replace(origin=f"{self.origin}#={digest}")

    def share(self, partition: str, digest: str) -> Identity:
        """Return the identity of the share of the batch that a partition of a stage gets.

        Its batches have an origin of their own: one partition may be far behind another. A hexadecimal `digest` says
        which events it is.
        """
        whole = self.whole.origin
        return self._replace(origin=f"{whole}/{partition}{self.origin.removeprefix(whole)}").made(digest)

    @property
    def place(self) -> tuple[Identity, range | None]:
        """The identity of the batch that this is a piece of, and which of its events this has; None: it is no piece."""
        found = _PIECE.search(self.origin) if "#" in self.origin else None
        if found is None:
            return self, None
        return self._replace(origin=self.origin[: found.start()]), range(int(found[1]), int(found[2]))

    @property
    def whole(self) -> Identity:
        """The identity of the batch as it was first sent, which this is a piece of, or made of, or both."""
        found = _DERIVED.search(self.origin) if "#" in self.origin else None
        return self if found is None else self._replace(origin=self.origin[: found.start()])


def derived_from(origin: str) -> tuple[str, str]:
    """Return bounds for a query of all origins derived from an origin: `$` is the character after `#`."""
    return f"{origin}#", f"{origin}$"


class Header(NamedTuple):
    """What travels beside a batch's payload from actor to actor.

    `events` is their number; `routes` are the emitters that every one of them goes to (empty: all emitters), None
    means that the events differ and each one's `route_to` must be read; `enqueued_ns` is Unix time in nanoseconds.
    `trace` has the `traceparent`s of the spans that the batch comes from, separated by commas (none: it is not traced).
    `wants_fates`: the receipt is to say what each event counts as (see `Fate`), since a request asks for its own.
    """

    events: int
    identity: Identity | None
    routes: tuple[str, ...] | None
    enqueued_ns: int
    trace: str
    wants_fates: bool = False


class Batch:
    """Hold many events, as bytes, as messages, or both; iterate over it, or take its `len`, to see the events."""

    __slots__ = (
        "_count",
        "_estimate",
        "_events",
        "_messages",
        "_payload",
        "enqueued_ns",
        "identity",
        "routes",
        "trace",
        "wants_fates",
    )

    def __init__(
        self,
        *,
        payload: bytes | None = None,
        events: list[Event] | None = None,
        count: int | None = None,
        routes: tuple[str, ...] | None = None,
        identity: Identity | None = None,
        enqueued_ns: int = 0,
        trace: str = "",
        wants_fates: bool = False,
    ) -> None:
        self._payload = payload
        self._messages: list[EventPayload] = []
        self._estimate = 0
        if events is None and count is None:
            events = self._decode(payload or b"")
        self._events = events
        self._count = len(events) if events is not None else count or 0
        self.routes = routes
        self.identity = identity
        self.enqueued_ns = enqueued_ns
        self.trace = trace
        self.wants_fates = wants_fates

    @classmethod
    def from_events(cls, events: Sequence[Event], *, routes: tuple[str, ...] | None = None) -> Batch:
        """Build a batch from events; with `routes` None each event's own `route_to` counts."""
        return cls(events=list(events), routes=routes)

    @classmethod
    def from_message(cls, message: EventPayload, payload: bytes | None = None) -> Batch:
        """Build a batch around a parsed `EventPayload`, and the bytes that it was parsed from where they are known."""
        return cls.from_parsed(message, list(message.events), payload)

    @classmethod
    def from_parsed(cls, message: EventPayload, events: list[Event], payload: bytes | None = None) -> Batch:
        """Build a batch around a parsed `EventPayload` and the list of its events."""
        batch = cls(payload=payload, events=events)
        batch._messages = [message]
        return batch

    @classmethod
    def from_wire(cls, header: Header, payload: bytes) -> Batch:
        """Build a batch from what an actor was sent."""
        return cls(
            payload=payload,
            count=header.events,
            routes=header.routes,
            identity=header.identity,
            enqueued_ns=header.enqueued_ns,
            trace=header.trace,
            wants_fates=header.wants_fates,
        )

    @property
    def header(self) -> Header:
        """The header that goes to the next actor beside `payload`."""
        return Header(self._count, self.identity, self.routes, self.enqueued_ns, self.trace, self.wants_fates)

    @property
    def events(self) -> list[Event]:
        """The events, decoded on first use. Do not change the list; call `replace` to put other events in."""
        if self._events is None:
            self._events = self._decode(self._payload or b"")
        return self._events

    @property
    def is_sealed(self) -> bool:
        """Whether its events have not been decoded."""
        return self._events is None

    @property
    def payload(self) -> bytes:
        """The events as a serialised `EventPayload`, encoded only if something changed."""
        if self._payload is None:
            self._payload = self._encode()
        return self._payload

    @property
    def size(self) -> int:
        """The size of `payload` in bytes."""
        return len(self.payload)

    @property
    def size_hint(self) -> int:
        """The size in bytes; before the events are encoded again, that of what they were made from."""
        if self._payload is not None:
            return len(self._payload)
        if not self._estimate:  # protobuf writes an event to learn its size
            self._estimate = sum(map(Event.ByteSize, self._events or ())) + 3 * self._count
        return self._estimate

    @property
    def ids(self) -> list[str]:
        """The ids of the events, in order."""
        return [event.id for event in self.events]

    @property
    def first_id(self) -> bytes:
        """The id of the first event in UTF-8, found without decoding the others; empty where there is none."""
        if self._events is not None:
            return self._events[0].id.encode() if self._events else b""
        return first_id(self.payload)

    def replace(self, events: list[Event]) -> Batch:
        """Return a batch of other events under the same header; the same list means: changed in place."""
        other = Batch(events=events, routes=self.routes, identity=self.identity)
        other.enqueued_ns, other.trace, other.wants_fates = self.enqueued_ns, self.trace, self.wants_fates
        other._estimate = self.size_hint
        if self._messages and self._events is not None and _same(events, self._events):
            other._messages = self._messages
        return other

    def sealed(self) -> Batch:
        """Return the batch as bytes alone, so that holding it costs no more than its size."""
        return self._sealed(self.identity)

    def unidentified(self) -> Batch:
        """Return the same events without an identity: whoever sends them next gives them a new one."""
        return self if self.identity is None else self._sealed(None)

    def _sealed(self, identity: Identity | None) -> Batch:
        return Batch(
            payload=self.payload,
            count=self._count,
            routes=self.routes,
            identity=identity,
            enqueued_ns=self.enqueued_ns,
            trace=self.trace,
            wants_fates=self.wants_fates,
        )

    def traced(self, trace: str) -> Batch:
        """Return the same events under the same header but for its `trace`."""
        other = Batch(payload=self._payload, events=self._events, count=self._count, routes=self.routes)
        other.identity, other.enqueued_ns, other.wants_fates = self.identity, self.enqueued_ns, self.wants_fates
        other._messages, other._estimate, other.trace = self._messages, self._estimate, trace
        return other

    def split(self, at: int) -> tuple[Batch, Batch]:
        """Cut the batch after its first `at` events, without re-encoding them; both halves keep the header."""
        frames = split_frames(self.payload)
        return self._with_frames(frames[:at]), self._with_frames(frames[at:])

    def pieces(self, count: int) -> list[Batch]:
        """Cut the batch into pieces of at most that many events; they have its header, and no identity."""
        starts = range(0, len(self), count)
        if self._events is None:
            frames = split_frames(self.payload)
            return [self._with_frames(frames[at : at + count]).unidentified() for at in starts]
        pieces = [Batch(events=self._events[at : at + count], routes=self.routes) for at in starts]
        for piece in pieces:
            piece.enqueued_ns, piece.trace, piece.wants_fates = self.enqueued_ns, self.trace, self.wants_fates
        return pieces

    def select(self, positions: Sequence[int]) -> Batch:
        """Return a batch of the events at these positions, without re-encoding them."""
        frames = split_frames(self.payload)
        return self._with_frames([frames[position] for position in positions])

    def divided(self, shares: Sequence[Sequence[int]]) -> list[Batch]:
        """Return a batch for the events at each of these lists of positions, without re-encoding them."""
        if len(shares) == 1 and len(shares[0]) == len(self):
            return [self.sealed()]
        frames = split_frames(self.payload)
        return [self._with_frames([frames[position] for position in share]) for share in shares]

    def read_routes(self) -> None:
        """Set `routes` where all events have the same `route_to`."""
        if not has_routes(self.payload):
            self.routes = ()
        else:
            distinct = set(map(tuple, map(_ROUTES, self.events)))
            self.routes = distinct.pop() if len(distinct) == 1 else None

    def runs(self) -> list[Batch]:
        """Cut the batch into stretches of neighbouring events with the same `route_to`, each with its `routes` set."""
        if self.routes is not None:
            return [self]
        routes = [tuple(event.route_to) for event in self.events]
        cuts = [i for i in range(1, len(routes)) if routes[i] != routes[i - 1]]
        if not cuts:
            self.routes = routes[0] if routes else ()
            return [self]
        frames = split_frames(self.payload)
        pieces = []
        for start, end in zip([0, *cuts], [*cuts, len(routes)], strict=True):
            piece = self._with_frames(frames[start:end])
            piece.routes = routes[start]
            pieces.append(piece)
        return pieces

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __reduce__(self) -> tuple[object, tuple[Header, bytes]]:
        return Batch.from_wire, (self.header, self.payload)

    def __repr__(self) -> str:
        return f"Batch({len(self)} events, identity={self.identity}, routes={self.routes})"

    def _with_frames(self, frames: list[bytes]) -> Batch:
        return Batch.from_wire(self.header._replace(events=len(frames)), join_frames(frames))

    def _decode(self, payload: bytes) -> list[Event]:
        message = EventPayload.FromString(payload)
        self._messages = [message]
        return list(message.events)

    def _encode(self) -> bytes:
        if self._messages:  # the events are exactly those of the messages: one call encodes them all
            return b"".join([message.SerializeToString() for message in self._messages])
        return join_frames(map(Event.SerializeToString, self._events or ()))


def join(batches: Sequence[Batch]) -> Batch:
    """Join batches into one, in order, by joining bytes where they are encoded and events where they are not.

    The joined batch has the first one's age and the traces of all, no identity (whoever sends it gives it one), and
    routes only where all agree. It wants fates where any of them does.
    """
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    routes = first.routes if all(batch.routes == first.routes for batch in batches) else None
    joined = Batch(payload=b"", count=0, routes=routes, enqueued_ns=first.enqueued_ns)
    joined.trace = join_traces([batch.trace for batch in batches if batch.trace])
    joined._count = sum(map(len, batches))
    joined.wants_fates = any(batch.wants_fates for batch in batches)
    encoded = [batch._payload for batch in batches if batch._payload is not None]
    joined._payload = b"".join(encoded) if len(encoded) == len(batches) else None
    decoded = [batch._events for batch in batches if batch._events is not None]
    if len(decoded) == len(batches):
        joined._events = [event for events in decoded for event in events]
        if all(batch._messages for batch in batches):
            joined._messages = [message for batch in batches for message in batch._messages]
    elif joined._payload is None:
        joined._payload = b"".join([batch.payload for batch in batches])
    return joined


def join_traces(traces: Sequence[str]) -> str:
    """Return the different `traceparent`s of several batches' traces, as many as travel."""
    if len(traces) < 2:
        return traces[0] if traces else ""
    different = dict.fromkeys(one for trace in traces for one in trace.split(","))
    return ",".join(islice(different, MOST_TRACES))


def _same(left: list[Event], right: list[Event]) -> bool:
    return left is right or (len(left) == len(right) and all(map(_is, left, right)))


def _is(left: Event, right: Event) -> bool:
    return left is right
