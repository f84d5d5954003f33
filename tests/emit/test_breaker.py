"""The circuit breaker, on a clock that stands still."""

from __future__ import annotations

import pytest

from polku import Breaker, PlanError
from polku.emit.breaker import Circuit, State
from tests.support.clock import FakeClock


def circuit(**options: float) -> tuple[Circuit, FakeClock]:
    clock = FakeClock()
    return Breaker(**options).build(clock), clock  # type: ignore[arg-type]


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker, _ = circuit(failures=2)
    states = []
    for outcome in (breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        outcome()
        states.append(breaker.state)
    assert states == [State.CLOSED, State.CLOSED, State.CLOSED, State.OPEN]


def test_that_a_destination_fails_is_said_before_the_circuit_opens() -> None:
    breaker, _ = circuit(failures=5)
    told = []
    for outcome in (breaker.failed, breaker.failed, breaker.failed, breaker.succeeded, breaker.failed):
        outcome()
        told.append(breaker.is_failing)
    assert told == [False, False, True, False, False]
    assert breaker.state is State.CLOSED
    alone, _ = circuit(failures=1)
    alone.failed()
    assert alone.is_failing


def test_open_it_lets_nothing_through_until_its_time_is_over() -> None:
    breaker, clock = circuit(failures=1, first=30, open_for=30)
    breaker.failed()
    clock.advance(20)
    assert breaker.wait() == 10
    clock.advance(10)
    assert breaker.wait() == 0
    assert breaker.state is State.HALF_OPEN


def test_half_open_it_closes_after_successes_and_opens_again_after_one_failure() -> None:
    breaker, clock = circuit(failures=5, open_for=1, successes=2)
    for _ in range(5):
        breaker.failed()
    clock.advance(1)
    breaker.wait()
    breaker.succeeded()
    breaker.failed()
    states = [breaker.state]
    clock.advance(1)
    breaker.wait()
    breaker.succeeded()
    breaker.succeeded()
    states.append(breaker.state)
    assert states == [State.OPEN, State.CLOSED]


def test_calls_that_were_under_way_when_it_opened_change_nothing() -> None:
    breaker, clock = circuit(failures=1, first=30, open_for=30)
    breaker.failed()
    clock.advance(29)
    breaker.failed()
    breaker.succeeded()
    assert breaker.wait() == 1


def opened_for(breaker: Circuit, clock: FakeClock) -> float:
    """Return for how long a circuit lets nothing through once another call has failed; its time is over then."""
    breaker.failed()
    clock.advance(wait := breaker.wait())
    breaker.wait()
    return wait


def test_it_is_open_for_twice_as_long_each_time_that_the_trial_fails_until_one_succeeds() -> None:
    breaker, clock = circuit(failures=1, open_for=10, successes=1)
    assert [opened_for(breaker, clock) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    breaker.succeeded()
    assert [opened_for(breaker, clock) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("field", ["failures", "open_for", "successes", "first"])
def test_a_wrong_setting_is_named(field: str) -> None:
    with pytest.raises(PlanError, match=rf"Breaker\({field}=0\)"):
        circuit(**{field: 0})
