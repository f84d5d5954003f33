"""Templates, and what becomes of an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Event, Outcome, Severity
from polku.kafka.client import UnfitError
from polku.kafka.fields import key_metadata
from polku.kafka.record import RecordMaker, Value, check_topic
from polku.kafka.template import AbsentError, compile_template, is_constant
from tests.ingest.strategies import EVENTS


def test_a_template_is_filled_in_from_the_event() -> None:
    event = Event(id="i", source="s", event_type="t", metadata={"a b": "m"})
    event.severity, event.outcome = Severity.SEVERITY_WARNING, Outcome.OUTCOME_SUCCESS
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
    assert all(isinstance(name, str) and isinstance(text, bytes) for name, text in record.headers)


@pytest.mark.parametrize("value", [Value.JSON, Value.RAW, Value.CLOUDEVENTS, Value.CLOUDEVENTS_BINARY])
def test_an_event_that_has_no_such_form_is_unfit(value: Value) -> None:
    event = Event(id="a")
    event.process.start_time.seconds = 1_700_000_000_000
    maker = RecordMaker(lambda event: "t", None, value, ())
    with pytest.raises(UnfitError, match=r"value: the event cannot be written: "):
        maker.make(event, event.SerializeToString())


def test_a_key_that_is_no_text_is_unfit() -> None:
    maker = RecordMaker(lambda event: "t", lambda event: "\udcff", Value.PROTOBUF, ())
    with pytest.raises(UnfitError, match="cannot be encoded as UTF-8"):
        maker.make(Event(id="a"), b"")


@pytest.mark.parametrize("key", [b"", b"order-7", "ä".encode(), b"\xff\x00\x01"])
def test_the_key_that_an_event_came_with_is_its_record_s(key: bytes) -> None:
    event = Event(id="a", metadata=key_metadata(key))
    maker = RecordMaker(lambda event: "t", None, Value.PROTOBUF, ())
    assert maker.make(event, event.SerializeToString()).key == key


def test_without_such_a_key_there_is_none_and_a_wrong_one_is_unfit() -> None:
    maker = RecordMaker(lambda event: "t", None, Value.PROTOBUF, ())
    assert maker.make(Event(id="a"), b"").key is None
    with pytest.raises(UnfitError, match=r"'kafka.key.base64' is no base64"):
        maker.make(Event(id="a", metadata={"kafka.key.base64": "?"}), b"")
