"""What of a trace travels with a batch: the `traceparent`s (W3C Trace Context) of the spans that it comes from.

They stand in its header as one text, separated by commas, and in the journal: what happens to a batch after a restart
belongs to the trace of what came in before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from polku.batch.batch import MOST_TRACES, Batch
from polku.batch.frames import join_frames, split_frames
from polku.event.v1.event_pb2 import Event

KEY = "traceparent"
_FORM = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """Return whether text is a `traceparent` that names a trace and a span; what later versions add is left out."""
    return _FORM.fullmatch(text) is not None


def of_events(events: Sequence[Event], first: str = "") -> str:
    """Return the different `traceparent`s in the metadata of events, as many as travel; `first` stands before them."""
    found = dict.fromkeys([first] if is_traceparent(first) else [])
    for event in events:
        text = event.metadata.get(KEY, "")
        if text and text not in found and is_traceparent(text):
            found[text] = None
            if len(found) >= MOST_TRACES:
                break
    return ",".join(found)


def with_traceparent(batch: Batch) -> Batch:
    """Return a batch whose events have its `traceparent` in their metadata, but for those that have one of their own.

    A batch without one, where nothing is traced, is returned as it is.
    """
    if not batch.trace:
        return batch
    entry = Event(metadata={KEY: batch.trace.partition(",")[0]}).SerializeToString()
    frames = split_frames(batch.payload)
    traced = [_with(frame, entry) for frame in frames]
    return Batch.from_wire(batch.header, join_frames(traced))


def _with(frame: bytes, entry: bytes) -> bytes:
    if KEY.encode() in frame and KEY in Event.FromString(frame).metadata:
        return frame
    return frame + entry  # what stands later in a message is merged with what stands before


def known(traces: str) -> Iterable[str]:
    """Return the `traceparent`s of a header's text."""
    return filter(is_traceparent, traces.split(","))
