"""Events made by hypothesis pass a pipeline without one being lost."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings

from polku import Deduplicator, Event, Filter, Hub, StdoutEmitter, Transform
from polku.testing import Raw, run
from polku.testing.strategies import event, events, raw_json


def shout(one: Event) -> None:
    if not one.payload:
        raise ValueError("nothing to shout")
    one.metadata["text"] = one.payload.decode("latin-1").upper()


hub = (
    Hub()
    .middleware(Filter(lambda one: one.event_type != "noise"))
    .middleware(Deduplicator(ttl=60))
    .middleware(Transform(shout))
    .emitter(StdoutEmitter(), name="audit")
)


@settings(max_examples=25)
@given(events(types=["order", "noise"]))
def test_every_event_has_one_fate(some: list[Event]) -> None:
    outcome = run(hub, some)
    for one in some:
        expected = "dropped" if one.event_type == "noise" else "delivered" if one.payload else "dead letter"
        assert outcome.fate(one.id).startswith(expected)


@settings(max_examples=25)
@given(raw_json(types=["order"]))
def test_raw_bytes_are_events_or_refusals(some: Raw) -> None:
    outcome = run(hub, some)
    assert len(outcome.delivered["audit"]) + len(outcome.dropped) + len(outcome.refused) >= bool(some.data.strip())


@given(event(types=["a"], sources=["s"]))
def test_fields_are_chosen(one: Event) -> None:
    assert (one.event_type, one.source) == ("a", "s")
    assert one.id


def test_without_hypothesis_an_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import polku.testing.strategies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "polku.testing.strategies needs hypothesis; install it: pip install hypothesis" in done.stderr


@pytest.mark.parametrize("name", ["run", "Flaky"])
def test_the_rest_needs_no_hypothesis(name: str) -> None:
    code = f"import sys; sys.modules['hypothesis'] = None; import polku.testing; polku.testing.{name}"
    subprocess.run([sys.executable, "-c", code], check=True)
