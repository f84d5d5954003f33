"""What the steps from a message of a stream to the buffer cost, in ns an event, one by one.

    python -m tests.bench.steps
    python -m tests.bench.steps --events 100 --payload 16000

The steps take turns, and the least of the rounds counts, so that other work on the machine changes little. In a
pipeline they cost more: other steps use the caches in between, and the system has to provide pages of memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

from polku.aio.slices import at_once
from polku.batch.batch import Batch
from polku.batch.frames import has_routes, join_with_field, may_have_entry, read_ack, read_envelope
from polku.batch.receipt import Receipt
from polku.event.v1.event_pb2 import Event
from polku.gateway.ack_size import bounding
from polku.gateway.acks import answer_events
from polku.gateway.admission import admit_payload, read_payload
from polku.gateway.times import may_have_times
from polku.limits import Limits
from polku.rpc.messages import MessageReader, prefixed
from polku.runtime.memory import keep_until_quiet
from polku.v1.gateway_pb2 import EventPayload, IngestBatch

_ROUNDS, _TIMES = 30, 3
_FRAME = 16_384  # bytes: a DATA frame, as most clients send them
_MOST = 64 << 20

Steps = dict[str, Callable[[], object]]


def _event(number: int, payload: int, metadata: int) -> Event:
    entries = {f"key-{place}": f"value-{place}-of-the-event" for place in range(metadata)}
    return Event(
        id=f"0123456789abcdef0123-{number}",
        timestamp_unix_ns=1_700_000_000_000_000_000 + 7_919 * number,
        source="bench",
        event_type="user.login",
        metadata=entries,
        payload=b"x" * payload,
    )


def _join_frames(pieces: list[memoryview]) -> list[bytes]:
    reader = MessageReader(_MOST, _MOST)
    return [message for piece in pieces for message in reader.read(piece, b"")]


def _lacking(whole: EventPayload, names: Sequence[str]) -> bytes:
    """Return the events without some of their fields."""
    less = EventPayload.FromString(whole.SerializeToString())
    for event in less.events:
        for name in names:
            setattr(event, name, type(getattr(event, name))())
    return less.SerializeToString()


def _admit_and_write(content: bytes, limits: Limits) -> bytes:
    """Admit events that lack something, and write what they are then: the buffer keeps that."""
    return admit_payload(content, "s", "", limits).batch.payload


def steps(count: int, payload: int, metadata: int) -> Steps:
    """Return what is measured, by its name; each step is given what the one before has made."""
    limits = Limits()
    whole = EventPayload(events=[_event(number, payload, metadata) for number in range(count)])
    message = IngestBatch(source="s", cluster="prod", events=whole).SerializeToString()
    sent = memoryview(prefixed(message, packed=False))
    pieces = [sent[at : at + _FRAME] for at in range(0, len(sent), _FRAME)]
    content = read_envelope(message).content
    frames = list(read_payload(content, limits))
    entry = Event(metadata={"cluster": "prod"}).SerializeToString()
    filled = join_with_field(frames, entry)
    events = list(EventPayload.FromString(filled).events)
    ids = [event.id for event in events]
    lacking = {
        f"the same without a cluster, {', '.join(names)} missing": _lacking(whole, names)
        for names in (("source",), ("timestamp_unix_ns",), ("id",), ("id", "timestamp_unix_ns", "source"))
    }
    admission = admit_payload(content, "s", "prod", limits)
    ack = answer_events(admission, Receipt(()), with_stats=False)
    answer = ack.SerializeToString()
    return {
        "join DATA frames to a message": lambda: _join_frames(pieces),
        "read the envelope": lambda: read_envelope(message),
        "find the events": lambda: list(read_payload(content, limits)),
        "look for a cluster": lambda: may_have_entry(content, b"cluster"),
        "put the cluster behind each": lambda: join_with_field(frames, entry),
        "parse": lambda: EventPayload.FromString(filled),
        "parse, an object for each, free them": lambda: list(EventPayload.FromString(filled).events),
        "look for ids, times and sources": lambda: [
            event_id for event in events if (event_id := event.id) and event.timestamp_unix_ns and event.source
        ],
        "compare the ids": lambda: len(set(ids)),
        "look for typed times": lambda: may_have_times(filled, events),
        "all of `admit_payload`": lambda: admit_payload(content, "s", "prod", limits),
        "the same without a cluster": lambda: admit_payload(content, "s", "", limits),
        **{name: partial(_admit_and_write, less, limits) for name, less in lacking.items()},
        "look for routes": lambda: has_routes(filled),
        "keep the bytes alone": lambda: Batch(payload=filled, count=count).sealed(),
        "make the Ack, bound and write it": lambda: at_once(
            bounding(answer_events(admission, Receipt(()), with_stats=False))
        ).SerializeToString(),
        "read the Ack of the sink": lambda: read_ack(answer),
    }


def measure(found: Steps, count: int) -> dict[str, float]:
    """Return ns an event of each step."""
    least = dict.fromkeys(found, float("inf"))
    for _ in range(_ROUNDS):
        for name, step in found.items():
            began = time.process_time()
            for _ in range(_TIMES):
                step()
            least[name] = min(least[name], (time.process_time() - began) / _TIMES)
    return {name: seconds / count * 1e9 for name, seconds in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--payload", type=int, default=60, help="bytes")
    parser.add_argument("--metadata", type=int, default=0, help="entries")
    options = parser.parse_args()
    keep_until_quiet()  # as a gateway does
    size = _event(0, options.payload, options.metadata).ByteSize()
    print(f"| events of {size} bytes, {options.events} in a message | ns an event | ns a byte |\n|---|---|---|")
    for name, cost in measure(steps(options.events, options.payload, options.metadata), options.events).items():
        print(f"| {name} | {cost:,.0f} | {cost / size:.2f} |")


if __name__ == "__main__":
    main()
