"""Where a part shows its events to those who look."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from polku.batch.batch import Batch
from polku.batch.frames import read_frames
from polku.event.v1.event_pb2 import Event
from polku.log import RepeatedLog
from polku.tap.redaction import Redaction
from polku.tap.request import LEASE_SECONDS, Sighting, TapReply, TapRequest, What, matches
from polku.tap.reservoir import Reservoir
from polku.text import as_id, line

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_EVENT_BYTES = 256 * 1024  # an event of more is shown without its payload
_BYTES = 8 * 1024 * 1024  # of what a tap holds; what comes when it is full is shown without its payload
_MOST = 5_000  # sightings that a tap holds, of all parts together

Events = Batch | Sequence[Event]


class Note(Struct, frozen=True):
    """Say of an event, by position, why it was dropped, refused or died."""

    position: int
    code: str
    reason: str


class Tap:
    """One who looks at the parts of this process: a sample for each part and each thing that happens to events."""

    def __init__(self, request: TapRequest, redaction: Redaction) -> None:
        self.request = request
        self._redaction = redaction
        self._id = request.event_id.encode("utf-8", "surrogateescape")
        self._samples: dict[tuple[str, What], _Sample] = {}
        self._expected: dict[tuple[str, What], int] = {}  # that come at least, if it goes on as it was
        self._held = self._bytes = self._passed = 0
        self.extend()

    def extend(self) -> None:
        """Stay for as long as a lease is."""
        self._until = time.monotonic() + LEASE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether nobody has read it for the time of a lease."""
        return time.monotonic() > self._until

    def wants(self, part: str, what: What) -> bool:
        """Return whether what happens to events at a part is to be shown."""
        return any(matches(pattern, part) for pattern in self.request.wants.get(what, ()))

    def show(self, part: str, what: What, events: Events, notes: Sequence[Note], reason: str) -> None:
        """Keep some of these events, or of those that the notes are about."""
        positions: Sequence[int] = [note.position for note in notes] if notes else range(len(events))
        if self.request.event_id:
            positions = self._with_id(events, positions)
        self._passed += len(positions)
        sample = self._sample(part, what)
        chosen = sample.choose(len(positions))
        if not chosen:
            return
        pick, now = _picker(events), time.time_ns()
        why = {note.position: note for note in notes}
        for start, stop, place, end in chosen:
            self._free(sample, place, end)
            shown = positions[start : min(stop, start + _MOST - self._held)]
            block = [pick(at) for at in shown]
            if why or not self._fits(block):
                reasons = [why.get(at) or Note(at, "", reason) for at in shown]
                told = [self._seen(now, part, what, data, note) for data, note in zip(block, reasons, strict=True)]
                self._keep(sample, place, end, now, told)
            else:
                self._bytes += sum(map(len, block))
                self._keep(sample, place, end, now, block, reason)

    def tell(self, part: str, what: What, event_id: str, code: str, reason: str) -> None:
        """Keep what happened to an event of which only the id is known."""
        if self.request.event_id not in ("", event_id):
            return
        self._passed += 1
        sample, now = self._sample(part, what), time.time_ns()
        for choice in sample.choose(1):
            self._free(sample, choice.place, choice.end)
            seen = Sighting(now, part, what, as_id(event_id), code=code, reason=line(reason))
            self._keep(sample, choice.place, choice.end, now, [seen][: _MOST - self._held])

    def take(self, parts: Iterable[str]) -> TapReply:
        """Return what was kept, oldest first, and begin again."""
        samples, passed = self._samples, self._passed
        self._expected = {kind: sample.seen // 2 for kind, sample in samples.items()}
        self._samples, self._held, self._bytes, self._passed = {}, 0, 0, 0
        kept = (one for (part, what), sample in samples.items() for one in sample.sightings(part, what))
        seen = sorted(kept, key=lambda one: one.time_ns)
        return TapReply(tuple(parts), passed, tuple(self._finished(one) for one in seen))

    def _sample(self, part: str, what: What) -> _Sample:
        sample = self._samples.get((part, what))
        if sample is None:
            sample = self._samples[part, what] = _Sample(self.request.limit, self._expected.get((part, what), 0))
        return sample

    def _with_id(self, events: Events, positions: Sequence[int]) -> list[int]:
        if isinstance(events, Batch) and events.is_sealed and self._id not in events.payload:
            return []
        event_id = self.request.event_id
        among = events.events if isinstance(events, Batch) else events
        return [at for at in positions if among[at].id == event_id]

    def _keep(self, sample: _Sample, place: int, end: int, now: int, block: Sequence[_Kept], reason: str = "") -> None:
        """Fill the free places up to another one; `_bytes` has been counted. The `reason` is that of bytes."""
        self._held += len(block)
        free = end - place - len(block)
        sample.slots[place:end] = [*block, *([None] * free)]
        sample.sizes[place:end] = [*(len(one if isinstance(one, bytes) else one.event) for one in block), *([0] * free)]
        sample.about[place:end] = [(now, reason)] * (end - place)

    def _free(self, sample: _Sample, place: int, end: int) -> None:
        """Count what stands from a place on up to another one as gone: other things are put there next."""
        there = sample.slots[place:end]
        self._held -= len(there) - there.count(None)
        self._bytes -= sum(sample.sizes[place:end])

    def _fits(self, block: Sequence[bytes]) -> bool:
        return max(map(len, block), default=0) <= _EVENT_BYTES and self._bytes + sum(map(len, block)) <= _BYTES

    def _seen(self, now: int, part: str, what: What, data: bytes, note: Note) -> Sighting:
        """Return what is kept of a serialised event; most is pushed out again, so it is not read before `take`."""
        left_out = 0
        if len(data) > _EVENT_BYTES or self._bytes + len(data) > _BYTES:
            data, left_out = self._shortened(Event.FromString(data))
        self._bytes += len(data)
        return Sighting(now, part, what, "", data, left_out, str(note.code), note.reason)

    def _shortened(self, event: Event) -> tuple[bytes, int]:
        """Return an event as far as there is room for it, and how many bytes of its payload are left out."""
        shown = self._redaction.redacted(event)
        data = shown.SerializeToString()
        if len(data) <= _EVENT_BYTES and self._bytes + len(data) <= _BYTES:
            return data, len(event.payload) - len(shown.payload)
        brief = Event(
            id=event.id, source=event.source, event_type=event.event_type, timestamp_unix_ns=event.timestamp_unix_ns
        )
        return brief.SerializeToString(), len(event.payload)

    def _finished(self, seen: Sighting) -> Sighting:
        """Return a sighting as others may see it."""
        if not seen.event:
            return seen
        event = Event.FromString(seen.event)
        shown = self._redaction.redacted(event)
        data = seen.event if shown is event else shown.SerializeToString()
        left_out = seen.left_out + len(event.payload) - len(shown.payload)
        return seen._replace(event_id=event.id, event=data, left_out=left_out, reason=line(seen.reason))


_Kept = bytes | Sighting  # the bytes of a serialised event of which there is nothing of its own to say


class _Sample:
    """The sightings of one thing that happens at one part."""

    def __init__(self, size: int, expected: int) -> None:
        self._reservoir = Reservoir(size, expected=expected)
        self.choose = self._reservoir.choose
        self.slots: list[_Kept | None] = []
        self.sizes: list[int] = []  # in bytes
        self.about: list[tuple[int, str]] = []  # the times, and the reasons of bytes

    @property
    def seen(self) -> int:
        """How many events there were."""
        return self._reservoir.seen

    def sightings(self, part: str, what: What) -> Iterator[Sighting]:
        """Yield what is kept, in no order."""
        for kept, (time_ns, reason) in zip(self.slots, self.about, strict=True):
            if kept is not None:
                yield kept if isinstance(kept, Sighting) else Sighting(time_ns, part, what, "", kept, reason=reason)


class TapPoint:
    """What a part has as its `tap` while somebody looks at it; nothing here raises, or waits."""

    def __init__(self, part: str, taps: Sequence[Tap], on_over: Callable[[], None]) -> None:
        self._part = part
        self._taps = tuple(taps)
        self._on_over = on_over
        self._who: dict[tuple[What, str], tuple[str, list[Tap]]] = {}

    def show(self, what: What, events: Events, *, notes: Sequence[Note] = (), reason: str = "", step: str = "") -> None:
        """Show what happened to these events, or to those of them that the notes are about."""
        part, taps = self._who_wants(what, step)
        self._each(taps, lambda tap: tap.show(part, what, events, notes, reason))

    def wants(self, what: What, step: str = "") -> bool:
        """Return whether somebody wants to see what happens so: where it takes work to find out what to show."""
        return bool(self._who_wants(what, step)[1])

    def tell(self, what: What, event_id: str, code: str, reason: str) -> None:
        """Tell what happened to an event of which only the id is known."""
        part, taps = self._who_wants(what, "")
        self._each(taps, lambda tap: tap.tell(part, what, event_id, code, reason))

    def _who_wants(self, what: What, step: str) -> tuple[str, list[Tap]]:
        """Return the name of the part, or of a step of it, and who wants to see what happens so there."""
        known = self._who.get((what, step))
        if known is None:
            part = f"{self._part}/{step}" if step else self._part
            known = self._who[what, step] = part, [tap for tap in self._taps if tap.wants(part, what)]
        return known

    def _each(self, taps: Sequence[Tap], show: Callable[[Tap], None]) -> None:
        for tap in taps:
            if tap.is_over:
                self._on_over()
                continue
            try:
                show(tap)
            except Exception:
                _REPEATED.exception("tap", "events of %s cannot be shown", self._part)


class Tapped(Protocol):
    """A part that shows its events at its `tap`, if it has one; those of its `steps` under their names."""

    tap: TapPoint | None

    @property
    def steps(self) -> Sequence[str]:
        """The names of the steps that it shows, where it does not show itself."""
        ...


def _picker(events: Events) -> Callable[[int], bytes]:
    """Return what gives the serialised event at a position; of a batch that is bytes none is decoded."""
    if isinstance(events, Batch):
        if events.is_sealed:
            return read_frames(events.payload).__getitem__
        events = events.events
    return lambda position: events[position].SerializeToString()
