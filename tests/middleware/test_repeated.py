"""One Event object that user code returns, or yields, several times is as many events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest

from polku import Event, Hub, Transform
from polku.batch.lineage import origins
from tests.middleware.harness import events, run
from tests.support.recorder import Recorder


class Numbered:
    """Yield each event three times, changed in between."""

    def process(self, given: list[Event]) -> Iterator[Event]:
        for event in given:
            for number in range(3):
                event.metadata["number"] = str(number)
                yield event


def numbered_in_a_list(given: list[Event]) -> Iterable[Event]:
    for event in given:
        event.metadata["number"] = "0"
    return [event for event in given for _ in range(3)]


def numbers(given: Iterable[Event]) -> list[tuple[str, str]]:
    return [(event.id, event.metadata["number"]) for event in given]


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        (Numbered(), "012"),
        (Transform(Numbered().process, batch=True), "012"),
        (Transform(numbered_in_a_list, batch=True), "000"),
    ],
)
async def test_each_time_it_is_an_event_of_its_own_as_it_was_then(component: object, expected: str) -> None:
    given = events("a", "b")
    outcome = await run(component, given)
    assert numbers(outcome.events) == [(name, number) for name in "ab" for number in expected]
    assert len({id(event) for event in outcome.events}) == 6
    assert origins(given, outcome, range(6)) == [(0,), (0,), (0,), (1,), (1,), (1,)]


async def test_new_events_of_one_object_have_ids_of_their_own() -> None:
    def made(given: list[Event]) -> Iterator[Event]:
        event = Event(event_type="made")
        for number in range(3):
            event.metadata["number"] = str(number)
            yield event

    outcome = await run(Transform(made, batch=True), events("a"))
    assert [event.metadata["number"] for event in outcome.events] == ["0", "1", "2"]
    assert len({event.id for event in outcome.events} - {""}) == 3


def reused(data: bytes) -> Iterator[Event]:
    event = Event(event_type="row")
    for name in data.decode().split(","):
        event.id = name
        yield event


async def reused_later(data: bytes) -> AsyncIterator[Event]:
    for event in reused(data):
        yield event


@pytest.mark.parametrize("ingestor", [reused, reused_later, lambda data: list(reused(data))])
def test_an_ingestor_that_uses_an_event_again_is_told_so_and_nothing_is_taken(
    ingestor: Callable[[bytes], Any], recorder: Recorder
) -> None:
    with Hub(runtime="inline").ingestor(ingestor, source="rows").emitter(recorder).start() as pipeline:
        receipt = pipeline.sender().send_raw(b"a,b,c", source="rows")
        assert receipt.event_ids == ()
        (refusal,) = receipt.refused
        assert "gave the same Event again as record 2; make a new one for each" in refusal.message
        assert pipeline.sender().send_raw(b"a", source="rows").event_ids == ("a",)
        recorder.wait_for(1)


@pytest.fixture
def recorder(tmp_path: Any) -> Recorder:
    return Recorder(tmp_path / "out")
