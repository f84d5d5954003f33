"""The actor around the buffer."""

from __future__ import annotations

from typing import Any

import ray

from polku.actors.object_ref_queue import ObjectRefQueue
from polku.actors.options import ACTOR
from polku.actors.shell import Shell, unpack
from polku.actors.wire import pack_answer, unpack_push
from polku.batch.receipt import Receipt
from polku.buffer.buffer import Buffer, BufferStatistics
from polku.buffer.copies import Found
from polku.dead_letters import DeadLetter, DeadLetters
from polku.link.link import Link, Push
from polku.link.receiver import LinkReceiver
from polku.plan import Plan
from polku.runtime.assembly import build_buffer, build_dead_letters, replay_to_outlets
from polku.runtime.lane import tapped_of
from polku.tap.point import Tapped


class BufferShell(Shell):
    """Receive the batches of the last stage and feed the emitters' actors."""

    async def open(self) -> None:
        """Build the buffer and begin to deliver."""
        plan: Plan
        emitters: dict[str, Any]
        plan, emitters, replays = unpack(self._packed)
        self.redaction = plan.redaction
        self._dead_letters: DeadLetters = build_dead_letters(plan)
        self._opened.push_async_callback(self._dead_letters.close)
        links = {
            name: Link(f"{plan.name}/buffer/{name}", ObjectRefQueue(handle, f"emitter {name}"))
            for name, handle in emitters.items()
        }
        self._buffer: Buffer = build_buffer(plan, links, self._dead_letters)
        self._receiver = LinkReceiver(self._buffer, eager=True)
        self._opened.push_async_callback(self._buffer.close)
        await self._buffer.open()
        self._buffer.start()
        if replays:
            replay_to_outlets(plan, self._dead_letters, self._buffer)

    async def push(self, head: bytes, payload: bytes) -> bytes:
        """Answer when the buffer holds the batch."""
        await self.ensure_started()
        return pack_answer(await self._receiver.push(*unpack_push(head, payload)))

    async def outcome(self, push: Push) -> Receipt:
        """Return the outcome of a batch whose delivery is awaited."""
        await self.ensure_started()
        return await self._receiver.outcome(push)

    async def statistics(self) -> BufferStatistics:
        """Return a snapshot of the counters."""
        await self.ensure_started()
        return self._buffer.statistics()

    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are."""
        await self.ensure_started()
        return await self._buffer.find(event_id)

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the buffer and its outlets."""
        return tapped_of(self._buffer)

    async def dead_letters(self, event_id: str | None = None) -> list[DeadLetter]:
        """Return the dead letters that are kept here."""
        await self.ensure_started()
        return await self._dead_letters.stored(event_id)

    async def flush(self) -> None:
        """Let emitters that collect complete what they have."""
        await self.ensure_started()
        await self._buffer.flush()

    async def drain_buffer(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await self.ensure_started()
        await self._buffer.drain()

    async def halt(self) -> None:
        """Hand nothing more to emitters."""
        await self.ensure_started()
        self._buffer.halt()

    async def settled(self) -> None:
        """Return when everything that is in flight to emitters has its answer."""
        await self.ensure_started()
        await self._buffer.settled()


BufferActor = ray.remote(**ACTOR)(BufferShell)
