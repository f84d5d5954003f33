"""The actor that clients talk to: the gateway's doors and the intake behind them."""

from __future__ import annotations

from functools import partial

import ray

from polku.actors.ingest_base import IngestBase
from polku.actors.options import ACTOR
from polku.actors.shell import unpack
from polku.actors.target import Target, connect
from polku.dead_letters import DeadLetter, DeadLetters
from polku.gateway.intake import Intake
from polku.gateway.intake_statistics import IntakeStatistics
from polku.link.link import Link
from polku.runtime.assembly import build_dead_letters, build_intake, build_sources, replay_to_intake
from polku.runtime.lane import GATHERED
from polku.tap.point import Tapped


class IngestShell(IngestBase):
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
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        self._opened.push_async_callback(self._dead_letters.close)
        connection = connect(self._plan, target, self._dead_letters)
        self._opened.push_async_callback(connection.close)
        bury = partial(self._dead_letters.bury, "")
        name = f"{self._plan.name}/ingest"
        window = GATHERED._replace(batches=self._plan.batches_under_way)
        link = Link(name, connection.peer, window=window, bury=bury)
        self._intake: Intake = build_intake(self._plan, link, seals=True)
        build_sources(self._plan, self._intake, self._dead_letters)
        self._opened.push_async_callback(self._intake.close)
        await self._intake.start()
        if replays:
            replay_to_intake(self._plan, self._dead_letters, self._intake)

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the intake."""
        return {part: self._intake}

    async def dead_letters(self, event_id: str | None = None) -> list[DeadLetter]:
        """Return the dead letters that are kept here."""
        await self.ensure_started()
        return await self._dead_letters.stored(event_id)

    async def statistics(self) -> IntakeStatistics:
        """Return a snapshot of the counters."""
        await self.ensure_started()
        return self._intake.statistics()._replace(letters=self._dead_letters.statistics())


IngestActor = ray.remote(**ACTOR)(IngestShell)
