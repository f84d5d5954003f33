"""The actor that clients talk to: the gateway's doors and the intake behind them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import ray
from msgspec.structs import replace

from polku.actors.calls import KeepsDeadLetters
from polku.actors.ingest_base import IngestBase
from polku.actors.options import ACTOR
from polku.actors.shell import started, unpack
from polku.actors.target import PeerConnection, Target, connect
from polku.aio.tasks import TaskSet
from polku.change.difference import Difference
from polku.clock import SystemClock
from polku.dead_letters import DeadLetters
from polku.gateway.intake import Intake
from polku.gateway.intake_statistics import IntakeStatistics
from polku.link.link import Link, Window
from polku.plan import Plan
from polku.runtime.assembly import build_dead_letters, build_intake, build_sources, replay_to_intake
from polku.runtime.changing_intake import FreshIntake, Opened, exchange_intake, start_intake
from polku.runtime.lane import GATHERED
from polku.tap.point import Tapped


class _Fresh(NamedTuple):
    """What was started for a change, which the rest of the pipeline may still refuse."""

    intake: FreshIntake
    opened: Opened


class IngestShell(IngestBase, KeepsDeadLetters):
    """Take messages in, push their events to the next actor, acknowledge them."""

    @property
    def intake(self) -> Intake:
        """What takes messages in."""
        return self._intake

    async def open(self) -> None:
        """Build the intake and start its ingestors; the doors open once the supervisor says where."""
        target: Target
        self._plan, target, replays = unpack(self._packed)
        self.redaction = self._plan.redaction
        self._fresh: _Fresh | None = None
        self._background = TaskSet("parts that leave")
        self._opened.push_async_callback(self._background.close)
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        self._opened.push_async_callback(self._dead_letters.close)
        self._connection: PeerConnection = connect(self._plan, target, self._dead_letters)
        self._opened.push_async_callback(self._disconnect)
        bury = partial(self._dead_letters.bury, "")
        self._link = Link(_name(self._plan), self._connection.peer, window=_window(self._plan), bury=bury)
        self._intake: Intake = build_intake(self._plan, self._link, seals=True)
        build_sources(self._plan, self._intake, self._dead_letters)
        self._opened.push_async_callback(self._intake.close)
        if (await self._recall_farewell()).drains:
            self._intake.stop()
        await self._intake.start()
        if replays:
            replay_to_intake(self._plan, self._dead_letters, self._intake)

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the intake."""
        return {part: self._intake}

    @started
    async def prepare(self, packed: bytes, found: Difference) -> None:
        """Start the ingestors and sources that a change brings, next to those that run; raises `ChangeError`."""
        await self.discard()
        opened = Opened()
        try:
            intake = await start_intake(unpack(packed)[0], found, self._intake, opened, SystemClock())
        except BaseException:
            await opened.close()
            raise
        self._fresh = _Fresh(intake, opened)

    @started
    async def discard(self) -> None:
        """Close what was started for a change that does not come."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            await fresh.opened.close()

    @started
    async def rest(self) -> int:
        """Send nothing from now on; return how many batches that were sent have no final answer yet."""
        self._link.pause()
        return self._link.open

    @started
    async def resume(self) -> None:
        """Send again."""
        self._link.resume()

    @started
    async def change(self, number: int, packed: bytes, found: Difference, *, moves: bool) -> bool:
        """Take another plan from now on; raises `ChangeError`.

        Where it `moves`, batches go elsewhere from now on: return False while this is not at rest.
        """
        if number == self._number:  # a process that was started since has begun with it
            return True
        if moves and not self._link.is_at_rest:
            return False
        if self._fresh is None:
            await self.prepare(packed, found)
        assert self._fresh is not None
        fresh, self._fresh = self._fresh, None
        self.take_over(number, packed)
        self._plan, target, _ = unpack(packed)
        if moves:
            before, self._connection = self._connection, connect(self._plan, target, self._dead_letters)
            self._background.start("connection", before.close())
            self._link.lead_to(self._connection.peer, _window(self._plan), eager=False, name=_name(self._plan))
            self._intake.hand_on(reads_routes=not self._plan.stages, seals=True)
            self._link.resume()
        await exchange_intake(self._intake, self._plan, found, fresh.intake, self._dead_letters, self._background)
        return True

    @started
    async def resize(self, number: int, packed: bytes) -> int:
        """Give batches to other replicas from now on; return how many those that go still have."""
        if number < self._number:  # a call whose answer was given up, and that comes behind a later one
            return 0
        self._number, self._packed = number, packed
        self._plan, target, _ = unpack(packed)
        return await self._connection.resize(target)

    @started
    async def statistics(self) -> IntakeStatistics:
        """Return a snapshot of the counters."""
        return replace(self._intake.statistics(), letters=self._dead_letters.statistics())

    async def _disconnect(self) -> None:
        await self._connection.close()


def _name(plan: Plan) -> str:
    """Return the name of the link, by which stages that lanes share know the lane."""
    return f"{plan.name}/ingest"


def _window(plan: Plan) -> Window:
    return replace(GATHERED, batches=plan.batches_under_way)


IngestActor = ray.remote(**ACTOR)(IngestShell)
