import asyncio
from typing import Any

import pytest

from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware import Enricher
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock
from tests.support.virtual_time import in_virtual_time


async def test_a_mapping_adds_only_what_is_not_there_yet() -> None:
    batch = events("a")
    batch[0].metadata["region"] = "us"
    outcome = await work(as_step(Enricher({"region": "eu", "tier": "gold"}), FakeClock()), batch)
    assert dict(batch[0].metadata) == {"region": "us", "tier": "gold"}
    assert outcome.events is batch


async def test_what_a_function_returns_is_merged_over_the_metadata() -> None:
    batch = events("a", "b")
    batch[0].metadata["user"] = "old"
    outcome = await work(as_step(Enricher(lambda e: {"user": "new"} if e.id == "a" else None), FakeClock()), batch)
    assert [dict(event.metadata) for event in batch] == [{"user": "new"}, {}]
    assert outcome.events is batch


@in_virtual_time
async def test_an_async_look_up_is_bounded_in_time() -> None:
    async def look_up(event: Event) -> dict[str, str]:
        if event.id == "b":
            await asyncio.Event().wait()
        return {"found": event.id}

    outcome = await run(Enricher(look_up, timeout=0.001), events("a", "b"))
    assert outcome.events[0].metadata["found"] == "a"
    assert refused(outcome) == {"b": "MIDDLEWARE_TIMEOUT: Enricher(look_up): did not return within 0.001 s"}


@pytest.mark.parametrize("wrong", [{"n": 5}, {5: "n"}, "text", 0, False, ["a"], {"half": "\ud800"}])
async def test_what_is_no_mapping_of_strings_costs_only_its_event(wrong: Any) -> None:
    outcome = await run(Enricher(lambda event: wrong if event.id == "a" else {}), events("a", "b"))
    assert ids(outcome) == ["b"]
    assert "expected a mapping of strings to strings, or None" in refused(outcome)["a"]


async def test_later_changes_of_the_mapping_change_nothing() -> None:
    table = {"a": "1"}
    enricher = Enricher(table)
    table["b"] = "2"
    assert dict((await run(enricher, events("a"))).events[0].metadata) == {"a": "1"}


@pytest.mark.parametrize("wrong", [{"a": 1}, 5, "text"])
def test_wrong_arguments_are_named(wrong: Any) -> None:
    with pytest.raises(PlanError, match=r"Enricher\(look_up="):
        Enricher(wrong)
