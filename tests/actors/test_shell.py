"""An actor opens what it hosts at the first call of each life, whichever call that is."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from polku.actors import shell
from polku.actors.buffer import BufferShell
from polku.actors.emitter import EmitterShell
from polku.actors.ingest import IngestShell
from polku.actors.lane import LaneShell
from polku.actors.shell import Shell, pack, started
from polku.actors.stage import StageShell
from polku.actors.surroundings import Surroundings

SHELLS = (BufferShell, EmitterShell, IngestShell, LaneShell, StageShell)

# These open it themselves, which is cheaper: batches and messages come by them.
BY_THEMSELVES = {"push", "outcome", "submit", "begin", "ensure_started"}

# These have something to do, or nothing, before the actor is open as well.
AT_ANY_TIME = {
    "open",
    "close",
    "own_name",
    "life",
    "claim",
    "reserve_doors",
    "abandon_doors",
    "close_doors",
    "release",
    "first_to_end",
}


class Counting(Shell):
    """An actor that fails to open as often as it is told to."""

    failures = 0
    opened = 0

    async def open(self) -> None:
        self.opened += 1
        await asyncio.sleep(0)
        if self.opened <= self.failures:
            raise OSError("not yet")

    @started
    async def add(self, one: int, *, other: int = 0) -> int:
        """Add two numbers."""
        return one + other


@pytest.fixture(autouse=True)
def _own_process_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "tune_process", lambda: None)
    monkeypatch.setattr(shell, "keep_until_quiet", lambda: None)
    monkeypatch.setattr(Surroundings, "settle", lambda self: None)


def counting(failures: int = 0) -> Counting:
    actor = Counting(pack(), Surroundings())
    actor.failures = failures
    return actor


async def test_calls_that_come_together_open_it_once() -> None:
    actor = counting()
    assert await asyncio.gather(*(actor.add(number, other=1) for number in range(5))) == [1, 2, 3, 4, 5]
    assert actor.opened == 1


async def test_a_call_fails_where_it_cannot_be_opened_and_the_next_one_tries_again() -> None:
    actor = counting(failures=1)
    with pytest.raises(OSError, match="not yet"):
        await actor.add(1)
    assert await actor.add(1) == 1
    assert actor.opened == 2


@pytest.mark.parametrize("kind", SHELLS)
def test_every_call_of_an_actor_opens_it_first(kind: type[Shell]) -> None:
    calls = {name: method for name, method in inspect.getmembers(kind, inspect.iscoroutinefunction) if name[0] != "_"}
    assert "statistics" in calls
    rest = {name for name, method in calls.items() if not hasattr(method, "__wrapped__")}
    assert rest - AT_ANY_TIME <= BY_THEMSELVES
    for name in rest & BY_THEMSELVES - {"ensure_started"}:
        assert "await self.ensure_started()" in inspect.getsource(calls[name])
