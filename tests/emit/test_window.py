"""Windows of events, as tables for a function whose return confirms them."""

from __future__ import annotations

from typing import Any

import pytest

from polku import (
    Batch,
    Event,
    Failure,
    Hub,
    PlanError,
    RejectedError,
    RetryableError,
    WindowEmitter,
    new_event,
)
from polku.emit.table import table_schema
from polku.testing import Outcome, Pause, run

Table = Any


def numbered(count: int, start: int = 0) -> list[Event]:
    return [new_event("order", id=str(start + number), source="shop") for number in range(count)]


def outcome_of(function: Any, given: Any, **options: Any) -> Outcome:
    """Run a pipeline of a window alone; its emitter is called, not recorded only."""
    emitter = WindowEmitter(function, name="window", **options)
    return run(Hub().emitter(emitter), given, replace={"window": emitter})


def test_a_window_is_complete_by_events_or_age_and_at_the_end() -> None:
    windows: list[list[str]] = []

    def take(table: Table) -> None:
        windows.append(table.column("id").to_pylist())

    given = [numbered(7), Pause(11.0), *numbered(2, 7), Pause(9.0), *numbered(1, 9)]
    outcome = outcome_of(take, given, max_events=5, max_age=10.0)
    assert windows == [list("01234"), ["5", "6"], ["7", "8", "9"]]
    assert len(outcome.delivered["window"]) == 10


def test_the_table_has_what_the_events_have() -> None:
    tables: list[Table] = []
    event = new_event("order", id="1", source="shop", metadata={"tenant": "a"}, payload=b"\x00\x01")
    event.timestamp_unix_ns = 1_700_000_000_123_456_789
    outcome_of(lambda table: tables.append(table), event)
    (table,) = tables
    assert table.schema.equals(table_schema())
    (row,) = table.drop_columns(["timestamp"]).to_pylist()
    assert row == {
        "id": "1",
        "source": "shop",
        "event_type": "order",
        "severity": "info",
        "outcome": "unspecified",
        "metadata": [("tenant", "a")],
        "payload": b"\x00\x01",
        "data_type": None,
        "data": None,
    }
    assert table.column("timestamp")[0].value == 1_700_000_000_123_456_789


async def test_an_async_function_may_be_called_too() -> None:
    sizes: list[int] = []

    async def take(table: Table) -> list[Failure]:
        sizes.append(table.num_rows)
        return [Failure("1", "no", retryable=False)]

    emitter = WindowEmitter(take).build(None)  # type: ignore[arg-type]
    emitter.start()
    assert await emitter.emit(Batch.from_events(numbered(2))) == [Failure("1", "no", retryable=False)]
    assert sizes == [2]
    assert emitter.statistics() == (1, 2, 0)
    emitter.close()


def test_what_it_refuses_is_a_dead_letter_and_what_it_puts_off_comes_again() -> None:
    calls: list[int] = []

    def take(table: Table) -> list[Failure] | None:
        calls.append(table.num_rows)
        if len(calls) == 1:
            raise RetryableError("the warehouse is away", retry_after=30.0)
        return [Failure("1", "no such tenant", retryable=False)]

    outcome = outcome_of(take, [numbered(3)])
    assert calls == [3, 3]
    assert outcome.ids("window") == ["0", "2"]
    assert [(dead.event.id, dead.reason) for dead in outcome.dead] == [("1", "no such tenant")]


def test_a_window_that_is_rejected_is_dead_letters() -> None:
    def take(table: Table) -> None:
        raise RejectedError("the table is closed")

    assert [dead.reason for dead in outcome_of(take, [numbered(2)]).dead] == ["the table is closed"] * 2


@pytest.mark.parametrize(
    ("options", "reason"), [({"max_events": 0}, "max_events=0"), ({"max_age": 0}, "max_age=0"), ({}, "a function")]
)
def test_wrong_options_are_said_at_once(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        WindowEmitter(print if options else 7, **options)  # type: ignore[arg-type]
