"""The actor around a whole chained lane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import ray

from polku.actors.calls import KeepsDeadLetters, RelaysOutput
from polku.actors.ingest_base import IngestBase
from polku.actors.object_ref_queue import ObjectRefQueue
from polku.actors.options import ACTOR
from polku.actors.shell import started, unpack
from polku.actors.wire import pack_answer, unpack_push
from polku.batch.receipt import Receipt
from polku.buffer.copies import Found
from polku.dead_letters import DeadLetters
from polku.emit import console
from polku.emit.console import RelayConsole
from polku.gateway.intake import Intake
from polku.link.link import Link, Peer, Push
from polku.plan import StagePlan
from polku.runtime.assembly import build_dead_letters, replica_link
from polku.runtime.changing import Changed, ChangingLane
from polku.runtime.lane import LaneStatistics
from polku.runtime.serving import favour_journal
from polku.stage.workers import Workers
from polku.tap.point import Tapped

if TYPE_CHECKING:
    from polku.external.callback import Callback


class LaneShell(IngestBase, KeepsDeadLetters, RelaysOutput):
    """Run a lane as the inline runtime runs it; some of its stages may have actors of their own."""

    @property
    def intake(self) -> Intake:
        """What takes messages in."""
        return self._lane.intake

    async def open(self) -> None:
        """Build and start every part; an emitter that cannot start is started again, and again, beside the others."""
        self._apart: Mapping[str, Sequence[str]]
        self._plan, self._apart, replays = unpack(self._packed)
        self.redaction = self._plan.redaction
        self._console = RelayConsole()
        console.use(self._console)
        self._dead_letters: DeadLetters = build_dead_letters(self._plan)
        self._lane = ChangingLane(self._plan, self._dead_letters, self._elsewhere)
        self._opened.push_async_callback(self._lane.close)
        farewell = await self._recall_farewell()
        await self._lane.open(replays=replays, patient=True, takes=not farewell.drains)
        self._workers = {
            stage.name: Workers(self._lane.replicas[stage.name], self._apart[stage.name], partial(self._link_to, stage))
            for stage in self._plan.stages
            if stage.name in self._lane.replicas
        }
        favour_journal(self._plan.buffer)

    def check(self) -> None:
        """Raise what an emitter's `start` raised."""
        self._lane.check()

    async def push(self, head: bytes, payload: bytes, after: str) -> bytes:
        """Take what a stage with an actor of its own hands on."""
        if not self._started:
            await self.ensure_started()
        return pack_answer(await self._lane.push(*unpack_push(head, payload), after))

    async def outcome(self, push: Push, after: str) -> Receipt:
        """Return the outcome of a batch of such a stage that was taken."""
        if not self._started:
            await self.ensure_started()
        return await self._lane.outcome(push, after)

    @started
    async def statistics(self) -> LaneStatistics:
        """Return a snapshot of the counters of every part."""
        return self._lane.statistics()

    @started
    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are."""
        return await self._lane.find(event_id)

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the parts of the lane that run here."""
        return self._lane.tapped()

    @started
    async def assign(self, name: str, where: Callback | None) -> None:
        """Tell an emitter that is a place for a plugin where its plugin is."""
        await self._lane.assign(name, where)

    @started
    async def change(self, number: int, packed: bytes, change: bytes, seconds: float) -> Changed:
        """Take another plan from now on; raises `ChangeError`, and then nothing was changed."""
        old, new, found = unpack(change)
        if number == self._number:  # a process that was started since has begun with it
            return Changed(found)
        changed = await self._lane.change(old, new, found, seconds=seconds)
        self._plan, _, _ = unpack(packed)
        self.take_over(number, packed)
        return changed

    @started
    async def resize(self, number: int, packed: bytes) -> int:
        """Give batches to other replicas from now on; return how many those that go still have."""
        if number < self._number:  # a call whose answer was given up, and that comes behind a later one
            return 0
        self._number, self._packed = number, packed
        self._plan, self._apart, _ = unpack(packed)
        return sum([await workers.change(self._apart[stage]) for stage, workers in self._workers.items()])

    def _link_to(self, stage: StagePlan, worker: str, number: int) -> Link:
        queue = ObjectRefQueue(worker, f"{stage.name}/replica-{number}")
        return replica_link(self._plan, stage, number, queue, self._dead_letters)

    @started
    async def flush(self) -> None:
        """Let go of everything that is held."""
        await self._lane.flush()

    @started
    async def drain_buffer(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await self._lane.drain_buffer()

    async def release(self) -> None:
        """Take note of what is confirmed of what is in flight."""
        await self._lane.release()

    def _elsewhere(self, stage: StagePlan) -> list[Peer]:
        return [ObjectRefQueue(actor, stage.name) for actor in self._apart.get(stage.name, ())]


LaneActor = ray.remote(**ACTOR)(LaneShell)
