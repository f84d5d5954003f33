"""Every step of the benchmark does what it says, and what is filled in is there."""

from __future__ import annotations

from polku.v1.gateway_pb2 import EventPayload
from tests.bench.steps import measure, steps


def test_each_step_is_measured_and_what_events_lack_is_filled_in() -> None:
    found = steps(20, 60, 0)
    lacking = [step for name, step in found.items() if name.endswith("missing")]
    assert len(lacking) == 4
    for step in lacking:
        written = step()
        assert isinstance(written, bytes)
        events = EventPayload.FromString(written).events
        assert len(events) == 20
        assert all(event.id and event.timestamp_unix_ns and event.source for event in events)
    assert all(cost > 0 for cost in measure(found, 20).values())
