from collections.abc import Callable
from typing import Any

import pytest

from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware import OnInvalid, Validator, has_data, json_payload, max_size, non_empty
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock


@pytest.mark.parametrize("verdict", [True, None, ""])
async def test_true_none_and_an_empty_reason_pass(verdict: bool | str | None) -> None:
    batch = events("a", "b")
    outcome = await work(as_step(Validator(lambda event: verdict, on_invalid="dead_letter"), FakeClock()), batch)
    assert outcome.events is batch


@pytest.mark.parametrize("verdict", [False, "too old"])
async def test_what_does_not_pass_is_dropped_by_default(verdict: bool | str) -> None:
    outcome = await run(Validator(lambda event: event.id == "a" or verdict), events("a", "b"))
    assert ids(outcome) == ["a"]
    assert outcome.refused == []


async def test_tagged_events_go_on_with_the_reason() -> None:
    batch = events("a", "b")
    step = as_step(Validator(lambda event: "too old" if event.id == "b" else None, on_invalid="tag"), FakeClock())
    outcome = await work(step, batch)
    assert outcome.events is batch
    assert [dict(event.metadata) for event in batch] == [{}, {"polku.invalid": "Validator(lambda): too old"}]


async def test_dead_letters_tell_the_sender_the_reason() -> None:
    outcome = await run(Validator(non_empty, on_invalid=OnInvalid.DEAD_LETTER), events("a"))
    assert refused(outcome) == {"a": "INVALID_EVENT: Validator(non_empty): neither payload nor typed data"}


@pytest.mark.parametrize("verdict", [1, 0, [], {"a": 1}])
async def test_any_other_verdict_is_a_mistake_in_the_check(verdict: object) -> None:
    outcome = await run(Validator(lambda event: verdict), events("a"))
    assert refused(outcome)["a"].startswith("MIDDLEWARE_ERROR: Validator(lambda): returned")


async def test_a_check_that_raises_makes_a_dead_letter_in_any_mode() -> None:
    outcome = await run(Validator(lambda event: event.nothing), events("a"))  # type: ignore[attr-defined]
    assert "AttributeError" in refused(outcome)["a"]


def test_only_tagging_changes_events() -> None:
    built: dict[str, Any] = {mode: Validator(non_empty, on_invalid=mode).build(FakeClock()) for mode in OnInvalid}
    assert {mode: step.reads_only for mode, step in built.items()} == {"drop": True, "tag": False, "dead_letter": True}


@pytest.mark.parametrize(
    ("payload", "passes"),
    [
        (b"{}", True),
        (b" [1]\n", True),
        (b"", False),
        (b"{", False),
        (b"\xff", False),
        (b'"\xff"', False),
        (b"NaN", False),
    ],
)
def test_json_payload(payload: bytes, passes: bool) -> None:
    assert (json_payload(Event(payload=payload)) is None) is passes


def test_json_payload_survives_any_depth() -> None:
    assert "nested too deeply" in str(json_payload(Event(payload=b"[" * 200_000)))


def test_sizes_and_kinds_are_checked() -> None:
    event = Event(payload=b"x" * 100)
    assert max_size(102)(event) is None
    assert max_size(101)(event) == "102 bytes, the limit is 101"
    assert has_data()(event) == "no typed data"
    event.k8s.reason = "x"
    assert has_data()(event) is None
    assert has_data("network")(event) == "typed data is k8s, not network"
    assert non_empty(event) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: Validator(non_empty, on_invalid="bury"), "choose 'drop', 'tag' or 'dead_letter'"),
        (lambda: max_size(0), "max_size(size=0): must be a whole number of at least 1"),
        (lambda: has_data("http"), "has_data(kind='http'): is not known; choose 'network', "),
    ],
)
def test_wrong_arguments_are_named_with_value_and_fix(arguments: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        arguments()
    assert message in str(caught.value)
