"""Templates, and what becomes of an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Event
from polku.kafka.record import RecordMaker, UnfitError, Value, check_topic
from polku.kafka.template import AbsentError, compile_template, is_constant
from tests.ingest.strategies import EVENTS


def test_a_template_is_filled_in_from_the_event() -> None:
    event = Event(id="i", source="s", event_type="t", severity=3, outcome=1, metadata={"a b": "m"})
    template = "{{x}}-{id}-{source}-{event_type}-{severity}-{outcome}-{metadata[a b]}"
    assert compile_template("K", "topic", template)(event) == "{x}-i-s-t-warning-success-m"
    assert compile_template("K", "topic", "plain")(event) == "plain"
    assert [is_constant(text) for text in ("plain", "{{x}}", "{id}")] == [True, True, False]


@pytest.mark.parametrize("field", ["id", "source", "event_type", "metadata[x]"])
def test_an_absent_field_is_named(field: str) -> None:
    with pytest.raises(AbsentError) as caught:
        compile_template("K", "topic", f"a-{{{field}}}")(Event())
    assert str(caught.value) == f"topic: the event has no {field}, which the template needs"


@given(st.text(max_size=300))
def test_a_topic_is_legal_or_refused(name: str) -> None:
    try:
        check_topic(name)
    except UnfitError:
        return
    assert name.isascii()
    assert 0 < len(name) < 250
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@given(EVENTS, st.sampled_from(Value))
def test_no_event_makes_it_raise_anything_else(event: Event, value: Value) -> None:
    topic = compile_template("K", "topic", "events.{source}")
    key = compile_template("K", "key", "{event_type}")
    maker = RecordMaker(topic, key, value, ["traceparent"])
    try:
        record = maker.make(event, event.SerializeToString())
    except UnfitError:
        return
    assert isinstance(record.value, bytes)
    assert all(isinstance(name, str) and isinstance(text, str) for name, text in record.headers)
