"""The judge and the doubles of the simulation are strict, and excuse only what the guarantees do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku.codes import Code
from polku.errors import InputError
from polku.testing.simulation.inline import IntakeDoor
from polku.testing.simulation.judge import Judge, Promises
from polku.testing.simulation.ledger import Destination, Input, Ledger
from polku.testing.simulation.loop import Process
from polku.testing.simulation.world import World


def ledger_of_two(*arrived: str) -> Ledger:
    """Return a ledger in which `c1.1` and `c1.2` were acknowledged, with these arrivals at `out`."""
    ledger = Ledger()
    ledger.destinations["out"] = Destination("out", arrived=dict.fromkeys(arrived, 1))
    for token in ("c1.1", "c1.2"):
        ledger.inputs[token] = Input(token, token, attempts=1, accepted=1)
        ledger.routes[token] = {"out"}
    return ledger


def faults(ledger: Ledger) -> list[str]:
    return Judge(ledger, Promises(breaks=True)).faults()


LATE = ["order: c1.1 came to out after c1.2"]


def test_what_comes_late_breaks_a_promise() -> None:
    assert faults(ledger_of_two("c1.2", "c1.1")) == LATE


def test_what_two_deaths_made_late_does_not() -> None:
    ledger = ledger_of_two("c1.2")
    ledger.answer("buffer", ["c1.1"])
    ledger.forget("buffer")
    ledger.overtake()
    ledger.destinations["out"].arrived["c1.1"] = 1
    assert faults(ledger) == []


def test_one_of_the_deaths_is_no_excuse() -> None:
    ledger = ledger_of_two("c1.2", "c1.1")
    ledger.answer("buffer", ["c1.1"])
    ledger.overtake()
    assert faults(ledger) == LATE
    ledger.forget("buffer")
    assert faults(ledger) == LATE


def test_what_the_buffer_had_not_answered_about_is_expected_in_its_order() -> None:
    ledger = ledger_of_two("c1.2")
    ledger.answer("buffer", ["c1.2"])
    ledger.forget("buffer")
    ledger.overtake()
    ledger.destinations["out"].arrived["c1.1"] = 1
    assert faults(ledger) == LATE


def test_what_had_come_late_before_the_deaths_is_not_excused_by_them() -> None:
    ledger = ledger_of_two("c1.2", "c1.1")
    ledger.answer("buffer", ["c1.1"])
    ledger.forget("buffer")
    ledger.overtake()
    assert faults(ledger) == LATE


@pytest.mark.parametrize("after", [0.0, 0.0005])  # before the client knows, or while the answer is on its way
@pytest.mark.parametrize(("error", "unheard"), [(InputError(Code.INGESTOR_ERROR, "no"), 0), (ValueError("no"), 1)])
def test_a_refusal_is_an_answer_also_where_the_client_has_left_and_other_errors_are_not(
    error: Exception, unheard: int, after: float
) -> None:
    async def leave(world: World) -> int:
        class Refusing:
            async def event(self, message: bytes) -> Any:
                if after:
                    world.loop.call_later(after, call.cancel)
                else:
                    call.cancel()
                raise error

        door, process = IntakeDoor(world), Process("polku")
        door.open(Refusing(), process)  # type: ignore[arg-type]
        call = asyncio.ensure_future(door.event(b""))
        await asyncio.wait((call,))
        assert call.cancelled()
        return sum(task._log_traceback for task in world.loop.tasks if task.process is process)

    world = World(1)
    with world:
        assert world.run(leave(world)) == unheard


@pytest.mark.parametrize(("died", "is_excused"), [("lane-1/buffer", True), ("lane-1/stage-1", False), ("", False)])
def test_what_was_dropped_before_a_buffer_died_is_refused_for_a_reason(died: str, is_excused: bool) -> None:
    ledger = ledger_of_two("c1.1", "c1.2")
    ledger.destinations["out"].drops = "drop_oldest"
    ledger.inputs["c1.1"].refused.append((Code.UNDELIVERED, "dropped, as it was the oldest"))
    ledger.chance_deaths[died] += bool(died)
    assert ([] if is_excused else ["refused"]) == [fault.partition(":")[0] for fault in faults(ledger)]
