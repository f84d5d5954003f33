"""Check the events of one message, fill in what they lack, and tell the good from the refused.

The good path looks at each event once, in one comprehension (id, time, source: 150 ns), and nothing is encoded again,
also where a message names the cluster of all its events. Only one in which something is wrong is walked event by event.

| function | what it is given | what it knows already |
|---|---|---|
| `admit_payload` | the bytes of an `EventPayload` (streams, unary calls) | nothing |
| `admit_event` | one parsed event (unary calls) | its size |
| `admit_named` | parsed events of a source | their ids, which differ |
| `admit_events`, `admit_in_turns` | parsed events (ingestors) | nothing, or their size |

*Good* are events that keep their limits and whose ids differ: a shortcut that finds any other one returns None, and the
whole message is walked by `admit_events`. *Plain* ones moreover have none of the typed data.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from operator import methodcaller

from google.protobuf.message import DecodeError
from msgspec import Struct
from msgspec.structs import replace

from polku.aio.slices import at_once, in_slices
from polku.batch.batch import Batch
from polku.batch.frames import join_frames, may_have_entry, read_frames, split_frames
from polku.batch.receipt import Refusal
from polku.checks import shorten
from polku.codes import Code
from polku.contracts import Reply
from polku.errors import InputError
from polku.event.v1.event_pb2 import Event
from polku.gateway.event_limits import HEAVY_BYTES, check_envelope, metadata_fault, size_fault, text_fault
from polku.gateway.filling import Defaults, defaults_of, fill_in, filled_bytes
from polku.gateway.times import may_have_times, time_fault
from polku.ids import new_ids
from polku.limits import Limits
from polku.v1.gateway_pb2 import EventPayload

_KIND = methodcaller("WhichOneof", "data")
_CLUSTER = b"cluster"  # the name of the metadata: where it is found in no event's bytes, none has that entry
_TURN = 500  # events: a millisecond
_TURN_BYTES = 128 * 1024
_TURN_SECONDS = 0.002  # where events are larger


class Admission(Struct, frozen=True):
    """The events that may go on, their ids, and the refusals of the others."""

    batch: Batch
    ids: list[str]
    refused: list[Refusal]
    filled_bytes: int = 0
    """At most this many bytes more than the message had."""
    reply: Reply | None = None
    """What the sender is answered instead of an Ack, once all of it is accepted."""
    pieces: Sequence[Batch] = ()
    """The events of `batch` once more, where it is large and was admitted in pieces."""


class Before(Struct, frozen=True):
    """What stood in a message before the events that are admitted: their number, and ids that may not stand again."""

    events: int = 0
    ids: Collection[str] = frozenset()


_NOTHING = Before()


def admit_payload(
    payload: bytes,
    source: str,
    cluster: str,
    limits: Limits,
    frames: Sequence[bytes] | None = None,
    *,
    before: Before = _NOTHING,
) -> Admission:
    """Admit a serialised `EventPayload`; raises `InputError` where the message as a whole is refused.

    `frames` is what `read_payload` has found in it, where that is known.
    """
    check_envelope(limits, source, cluster)
    if frames is None:
        frames = read_payload(payload, limits)
    refused: list[Refusal] = []
    if len(payload) > HEAVY_BYTES and max(map(len, frames), default=0) > HEAVY_BYTES:
        frames, refused = _without_heavy(frames, limits, before.events)
        payload = join_frames(frames) if refused else payload
    if frames and not refused and not (cluster and may_have_entry(payload, _CLUSTER)):
        defaults = defaults_of(frames, source, cluster)
        if defaults is not None:
            admission = _admit_filled(frames, defaults, source, limits, before.ids)
            if admission is not None:
                return admission
    message = _parse(payload, refused, limits, before.events)
    events = list(message.events)
    if refused:
        return admit_events(events, source, cluster, limits, refused, before=before)
    check_count(len(events), limits)
    if _in_bounds(events, list(map(len, frames)), limits) and _times_in_bounds(events, payload):
        admission = _admit_good(message, events, payload, source, cluster, before.ids)
        if admission is not None:
            return admission
    return admit_events(events, source, cluster, limits, refused, before=before)


def _without_heavy(frames: Sequence[bytes], limits: Limits, start: int) -> tuple[list[bytes], list[Refusal]]:
    """Refuse what has too many fields to be decoded; return the other events, and the refusals."""
    faults = [
        size_fault(frame, start + position, limits) if len(frame) > HEAVY_BYTES else None
        for position, frame in enumerate(frames)
    ]
    good = [frame for frame, fault in zip(frames, faults, strict=True) if fault is None]
    return good, [fault for fault in faults if fault is not None]


def _admit_good(
    message: EventPayload,
    events: list[Event],
    payload: bytes | None,
    source: str,
    cluster: str,
    known: Collection[str],
) -> Admission | None:
    """Admit events whose fields keep their limits, and fill in what they lack; None where an id appears twice."""
    # One look at each event: what lacks an id, a time or a source is missing from the list.
    ids = [event_id for event in events if (event_id := event.id) and event.timestamp_unix_ns and event.source]
    is_complete = len(ids) == len(events)
    given = ids if is_complete else [event_id for event in events if (event_id := event.id)]
    if len(distinct := set(given)) != len(given):  # before anything is filled in: that would count against limits
        return None
    if known and not distinct.isdisjoint(known):
        return None
    if not is_complete or cluster:
        now = time.time_ns()
        spares = iter(new_ids(len(events) - len(given)))
        for event in events:
            fill_in(event, source, cluster, now, spares)
        ids = [event.id for event in events]
        return Admission(Batch.from_parsed(message, events), ids, [], filled_bytes(len(ids), source, cluster))
    return Admission(Batch.from_parsed(message, events, payload), ids, [])


def _admit_filled(
    frames: Sequence[bytes], defaults: Defaults, source: str, limits: Limits, known: Collection[str]
) -> Admission | None:
    """Admit events that all lack the same, if all are good; None: `admit_events` has to look at each."""
    sizes = list(map(len, frames))
    filled = defaults.join(frames)
    try:
        message = EventPayload.FromString(filled)
    except DecodeError:
        return None
    events = list(message.events)
    # An event that has as many entries as it may is not good here, for it has one more by now.
    if not (_in_bounds(events, sizes, limits) and _times_in_bounds(events, filled)):
        return None
    size = filled_bytes(len(events), source, defaults.cluster)
    if defaults.is_cluster:
        admission = _admit_good(message, events, filled, source, "", known)
        return admission and replace(admission, filled_bytes=size)
    ids = defaults.look(events)
    distinct = set(ids)
    if len(distinct) != len(events) or (known and not distinct.isdisjoint(known)):
        return None
    return Admission(Batch.from_parsed(message, events, filled), ids, [], size)


def admit_event(event: Event, source: str, cluster: str, limits: Limits, size: int) -> Admission:
    """Admit the one event of a message of `size` bytes, as `admit_events` does; most need no more than a look."""
    event_id = event.id
    is_complete = event_id and event.timestamp_unix_ns and event.source
    if is_complete and size <= limits.safe_event_bytes and event.WhichOneof("data") is None:
        if cluster and "cluster" not in event.metadata:
            event.metadata["cluster"] = cluster
        return Admission(Batch.from_events([event]), [event_id], [])  # and source and cluster are as small
    return admit_events([event], source, cluster, limits, size=size)


def admit_named(events: list[Event], ids: list[str], source: str, cluster: str, limits: Limits) -> Admission | None:
    """Admit events whose ids are known to differ, if all are good; None: `admit_events` has to look at each.

    Raises `InputError` as `admit_events` does.
    """
    check_envelope(limits, source, cluster)
    check_count(len(events), limits)
    return _admit_plain(events, ids, source, cluster, limits)


def admit_events(
    events: Sequence[Event],
    source: str,
    cluster: str,
    limits: Limits,
    refused: list[Refusal] | None = None,
    *,
    size: int | None = None,
    before: Before = _NOTHING,
) -> Admission:
    """Admit events one by one, filling in id, time, source and cluster where they are missing.

    `size` is that of the message in bytes, where it is known: in a small one no metadata can break a limit. Raises
    `InputError` where there are more events than `limits.batch_events`.
    """
    return at_once(_admit_by_parts(events, source, cluster, limits, [] if refused is None else refused, size, before))


async def admit_in_turns(
    events: Sequence[Event], source: str, cluster: str, limits: Limits, refused: list[Refusal]
) -> Admission:
    """Admit events as `admit_events` does, with a turn for others after each `_TURN` of them."""
    if not refused and 0 < len(events) <= _TURN and _are_small(events):
        check_envelope(limits, source, cluster)
        check_count(len(events), limits)
        if (admission := _admit_all(list(events), source, cluster, limits)) is not None:
            return admission
    return await in_slices(_admit_by_parts(events, source, cluster, limits, refused, None, _NOTHING))


def _are_small(events: Sequence[Event]) -> bool:
    size = 0
    for event in events:
        size += event.ByteSize()
        if size > _TURN_BYTES:
            return False
    return True


def _admit_all(events: list[Event], source: str, cluster: str, limits: Limits) -> Admission | None:
    """Admit events if all are good; None: `admit_events` has to look at each."""
    given = [event_id for event in events if (event_id := event.id)]
    return None if len(set(given)) != len(given) else _admit_plain(events, None, source, cluster, limits)


def _admit_plain(
    events: list[Event], ids: list[str] | None, source: str, cluster: str, limits: Limits
) -> Admission | None:
    """Admit events whose ids are known to differ, or are missing, if all else is good too."""
    if not _in_bounds(events, list(map(Event.ByteSize, events)), limits) or any(map(_KIND, events)):
        return None
    filled = 0
    now = time.time_ns()
    for event in events:
        if not (event.id and event.timestamp_unix_ns and event.source) or cluster:
            fill_in(event, source, cluster, now)
            filled += 1
    ids = [event.id for event in events] if ids is None else ids
    return Admission(Batch.from_events(events), ids, [], filled_bytes(filled, source, cluster))


def _admit_by_parts(
    events: Sequence[Event],
    source: str,
    cluster: str,
    limits: Limits,
    refused: list[Refusal],
    size: int | None,
    before: Before,
) -> Generator[None, None, Admission]:
    check_envelope(limits, source, cluster)
    check_count(len(events), limits)
    is_small = size is not None and size <= limits.safe_event_bytes
    ids: dict[str, None] = {}
    out = set(before.ids)  # ids of what was refused before: an Ack tells events apart by their ids alone
    good: list[Event] = []
    filled = 0
    now = time.time_ns()
    clock = time.monotonic
    began = clock()
    for position, event in enumerate(events, before.events):
        if (position and not position % _TURN) or clock() - began > _TURN_SECONDS:
            yield
            began = clock()
        event_id = event.id
        if event_id in ids or event_id in out or not is_small or event.WhichOneof("data") is not None:
            refusal = _refuse(event, position, ids if event_id in ids else out, limits)
            if refusal is not None:
                refused.append(refusal)
                out.add(event_id)
                continue
        if not (event_id and event.timestamp_unix_ns and event.source) or cluster:
            fill_in(event, source, cluster, now)
            event_id = event.id
            filled += 1
        ids[event_id] = None
        good.append(event)
    return Admission(Batch.from_events(good), list(ids), refused, filled_bytes(filled, source, cluster))


def read_payload(payload: bytes, limits: Limits) -> Sequence[bytes]:
    """Return the bytes of the events, counted before any is decoded; none where all of it is too small to matter.

    None, too, where they cannot be cut apart: what is wrong is said where they are decoded.
    """
    if len(payload) <= min(limits.safe_event_bytes, 2 * limits.batch_events):
        return ()
    try:
        frames = read_frames(payload)
    except DecodeError:
        return ()
    check_count(len(frames), limits)
    return list(frames)  # protobuf's own list makes the bytes of each again whenever they are looked at


def _parse(payload: bytes, refused: list[Refusal], limits: Limits, start: int) -> EventPayload:
    try:
        return EventPayload.FromString(payload)
    except DecodeError as error:
        return _parse_each(payload, refused, limits, start, error)


def _parse_each(payload: bytes, refused: list[Refusal], limits: Limits, start: int, error: DecodeError) -> EventPayload:
    """Find the events that are malformed; the others go on."""
    message = EventPayload()
    try:
        frames = split_frames(payload)
    except DecodeError:
        raise InputError(Code.MALFORMED, f"events: not a valid EventPayload ({error}); send it again whole") from None
    check_count(len(frames), limits)
    for position, frame in enumerate(frames, start):
        try:
            message.events.append(Event.FromString(frame))
        except DecodeError as reason:
            why = f"events[{position}]: not a valid Event ({reason}); strings must be UTF-8, fields as in event.proto"
            refused.append(Refusal("", Code.MALFORMED, why))
    return message


def check_count(count: int, limits: Limits) -> None:
    """Raise `InputError` where a message has more events than it may have."""
    if count > limits.batch_events:
        raise InputError(
            Code.TOO_MANY_EVENTS, f"events: {count} in one message, the limit is {limits.batch_events}; send fewer"
        )


def are_good(events: list[Event], sizes: Sequence[int], payload: bytes, limits: Limits) -> bool:
    """Return whether events of these sizes, which are those of `payload`, keep their limits."""
    return _in_bounds(events, sizes, limits) and _times_in_bounds(events, payload)


def _in_bounds(events: list[Event], sizes: Sequence[int], limits: Limits) -> bool:
    """Return whether all texts keep their limits; only events large enough to break one are looked into."""
    safe = limits.safe_event_bytes
    if max(sizes, default=0) <= safe:
        return True
    large = [
        event for event, size in zip(events, sizes, strict=True) if size > safe and size - len(event.payload) > safe
    ]
    return not any(text_fault(event, limits) or metadata_fault(event, limits) for event in large)


def _times_in_bounds(events: list[Event], payload: bytes) -> bool:
    return not (may_have_times(payload, events) and any(map(time_fault, events)))


def _refuse(event: Event, position: int, seen: Collection[str], limits: Limits) -> Refusal | None:
    if event.id and event.id in seen:
        reason = (
            f"events[{position}].id={shorten(event.id)} appears twice in this message; give each event an id of its own"
        )
        return Refusal(event.id, Code.DUPLICATE_ID, reason, position=position)
    code, fault = Code.INVALID_EVENT, text_fault(event, limits)
    if not fault:
        code, fault = Code.METADATA_LIMIT, metadata_fault(event, limits)
    if not fault:
        code, fault = Code.INVALID_EVENT, time_fault(event)
    return Refusal(event.id, code, f"events[{position}].{fault}", position=position) if fault else None
