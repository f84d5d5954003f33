"""Messages made by joining bytes are those that protobuf would make."""

from __future__ import annotations

import time

import pytest

from polku.batch.frames import split_frames
from polku.bench.workload import HEAD_BYTES, PREFIX, Workload, sent_at
from polku.errors import SettingError
from polku.v1.gateway_pb2 import IngestBatch, IngestEvent


@pytest.mark.parametrize("size", [80, 130, 131, 200, 201, 202, 203, 204, 16_500, 65_536])
def test_messages_are_batches_of_events_of_the_size_asked_for(size: int) -> None:
    now = time.time_ns()
    message = IngestBatch.FromString(Workload(batch=7, size=size).template().message(12, now))
    events = message.events.events
    assert [event.id for event in events] == [f"bench.{index:05d}.0000000012" for index in range(7)]
    assert {event.timestamp_unix_ns for event in events} == {now}
    assert all(size - 3 <= event.ByteSize() <= size for event in events)


def test_an_id_is_the_head_of_its_events_bytes_and_the_time_follows() -> None:
    message = IngestBatch.FromString(Workload(batch=2).template().message(3, 1_700_000_000_123_456_789))
    frames = split_frames(message.events.SerializeToString())
    assert [frame[:HEAD_BYTES] for frame in frames] == [PREFIX + b"%05d.0000000003" % index for index in range(2)]
    assert {sent_at(frame) for frame in frames} == {1_700_000_000_123_456_789}


@pytest.mark.parametrize("unary", [False, True])
def test_messages_may_have_a_cluster_and_events_more_metadata(unary: bool) -> None:
    workload = Workload(batch=2, size=200, unary=unary, cluster="prod", metadata=3)
    kind: type[IngestBatch | IngestEvent] = IngestEvent if unary else IngestBatch
    message = kind.FromString(workload.template().message(0, time.time_ns()))
    assert message.cluster == "prod"
    assert [len(event.metadata) for event in message.events.events] == [3, 3]


def test_unary_messages_are_for_send_event() -> None:
    one = IngestEvent.FromString(Workload(batch=1, unary=True).template().message(0, time.time_ns()))
    assert one.event.id == "bench.00000.0000000000"
    two = IngestEvent.FromString(Workload(batch=2, unary=True).template().message(1, time.time_ns()))
    assert len(two.events.events) == 2


def test_a_size_too_small_for_an_id_is_refused_with_the_least() -> None:
    with pytest.raises(SettingError, match=r"--size=10: an event takes at least \d+ bytes"):
        Workload(size=10)
