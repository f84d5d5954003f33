"""Cheap readings of wire messages say what protobuf says, also of messages that nobody writes on purpose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polku import Event
from polku.batch.frames import read_envelope
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, RawPayload

TEXTS = st.sampled_from(["", "a", "b" * 127, "b" * 128, "ä"])
EVENTS = st.lists(st.builds(Event, id=TEXTS), max_size=3).map(lambda events: EventPayload(events=events))
RAW = st.builds(RawPayload, data=st.binary(max_size=3), format=TEXTS)
PARTS = st.lists(
    st.one_of(
        st.builds(IngestBatch, source=TEXTS, cluster=TEXTS),
        st.builds(IngestBatch, events=EVENTS),
        st.builds(IngestBatch, raw=RAW),
    ).map(lambda message: message.SerializeToString())
    | st.sampled_from([b"\x20\x07", b"\x7a\x02hi"]),  # field 4 as a number, and field 15: nothing that we know
    max_size=6,
)


@given(PARTS)
def test_an_envelope_of_fields_that_stand_several_times_is_read_as_protobuf_merges_them(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    merged, envelope = IngestBatch.FromString(wire), read_envelope(wire)
    assert (envelope.source, envelope.cluster) == (merged.source, merged.cluster)
    assert envelope.which == (merged.WhichOneof("payload") or "")
    if envelope.which == "events":
        assert EventPayload.FromString(envelope.content) == merged.events
    if envelope.which == "raw":
        assert RawPayload.FromString(envelope.content) == merged.raw
