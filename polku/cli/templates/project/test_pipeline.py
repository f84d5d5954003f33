"""What the pipeline does with events, in this process: no port is opened."""

from pipeline import build

from polku import new_event


def test_events_are_marked_and_debug_events_are_dropped(tmp_path):
    delivered = []
    with build(delivered.extend, str(tmp_path / "journal.db")).start(runtime="inline") as pipeline:
        events = [new_event("user.login", source="test"), new_event("debug.trace", source="test")]
        assert pipeline.sender().send(events).ok
    assert [event.event_type for event in delivered] == ["user.login"]
    assert delivered[0].metadata["gateway"] == "{{name}}"
