"""Ray tasks as middleware; where no Ray runs, threads do the same work."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from polku import Event, Hub, PlanError, RemoteStep, StdoutEmitter, new_event
from polku.testing import run


def numbered(count: int) -> list[Event]:
    return [new_event("picture", id=str(number), payload=b"x" * number) for number in range(count)]


def hub(step: RemoteStep) -> Hub:
    return Hub().middleware(step).emitter(StdoutEmitter(), name="out")


def measure(event: Event) -> None:
    event.metadata["size"] = str(len(event.payload))


def test_events_are_changed_in_place_and_keep_their_order() -> None:
    outcome = run(hub(RemoteStep(measure, max_events=2)), [numbered(5), numbered(3)])
    assert [(event.id, event.metadata["size"]) for event in outcome.delivered["out"]] == [
        (str(number), str(number)) for number in (*range(5), *range(3))
    ]


def test_so_many_tasks_run_at_once_and_no_more() -> None:
    barrier = threading.Barrier(3, timeout=20)
    counts: list[int] = []
    lock = threading.Lock()

    def together(event: Event) -> Event:
        with lock:
            counts.append(1)
        barrier.wait()
        with lock:
            assert len(counts) <= 3
            counts.pop()
        return event

    outcome = run(hub(RemoteStep(together, max_in_flight=3, max_events=1)), [numbered(6)])
    assert [event.id for event in outcome.delivered["out"]] == list("012345")


def test_an_event_on_which_it_raises_is_a_dead_letter_and_the_others_of_its_task_are_not() -> None:
    def pick(event: Event) -> Any:
        if event.id == "1":
            raise KeyError("size")
        if event.id == "2":
            return "nonsense"
        if event.id == "3":
            raise SystemExit(1)
        return new_event("other", id=f"made of {event.id}")

    outcome = run(hub(RemoteStep(pick)), [numbered(5)])
    assert [event.id for event in outcome.delivered["out"]] == ["made of 0", "made of 4"]
    assert [(dead.event.id, dead.reason.removeprefix("RemoteStep(pick): ")) for dead in outcome.dead] == [
        ("1", "KeyError: 'size'"),
        ("2", "TypeError: returned 'nonsense', expected an Event, or None"),
        ("3", "SystemExit: 1"),
    ]


async def work_async(event: Event) -> None:
    """Take no time."""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"function": work_async}, "must not be async"),
        ({"function": 7}, "must be a function of the event"),
        ({"function": measure, "max_in_flight": 0}, "max_in_flight=0"),
        ({"function": measure, "num_cpus": -1}, "num_cpus=-1"),
    ],
)
def test_wrong_options_are_said_at_once(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        RemoteStep(**options)


def test_it_looks_like_the_call_that_makes_it() -> None:
    assert repr(RemoteStep(measure, max_in_flight=2)) == "RemoteStep(measure, max_in_flight=2)"
