"""The actor around the buffer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import ray

from polku.actors.calls import KeepsDeadLetters, ReceivesBatches
from polku.actors.names import same
from polku.actors.object_ref_queue import ObjectRefQueue
from polku.actors.options import ACTOR
from polku.actors.shell import started, unpack
from polku.buffer.buffer import Buffer
from polku.buffer.copies import Found
from polku.buffer.outlets import OutletChange
from polku.buffer.statistics import BufferStatistics
from polku.dead_letters import DeadLetters
from polku.errors import ChangeError, JournalError
from polku.link.link import Link
from polku.link.receiver import LinkReceiver
from polku.plan import Plan
from polku.runtime.assembly import build_buffer, build_dead_letters, replay_to_outlets, rules_of
from polku.runtime.changing import replay_to
from polku.runtime.lane import tapped_of
from polku.tap.point import Tapped

_REST_SECONDS = 30.0


class BufferArguments(NamedTuple):
    """What a buffer is made of: the plan of its lane, the actors of its emitters, whether dead letters are replayed.

    Emitters that are `leaving` deliver what waits for them, and get nothing more; the plan has them still.
    """

    plan: Plan
    emitters: Mapping[str, Any]
    replays: bool
    leaving: Collection[str] = ()


class BufferShell(KeepsDeadLetters, ReceivesBatches):
    """Receive the batches of the last stage and feed the emitters' actors."""

    async def open(self) -> None:
        """Build the buffer and begin to deliver."""
        self._arguments: BufferArguments
        (self._arguments,) = unpack(self._packed)
        plan, emitters, replays, leaving = self._arguments
        self.redaction = plan.redaction
        self._dead_letters: DeadLetters = build_dead_letters(plan)
        self._opened.push_async_callback(self._dead_letters.close)
        self._leads_to = dict(emitters)  # the actor of the emitter that each outlet delivers to now
        self._buffer: Buffer = build_buffer(plan, {name: self._link(name) for name in emitters}, self._dead_letters)
        self._receiver = LinkReceiver(self._buffer, eager=True)
        self._opened.push_async_callback(self._buffer.close)
        await self._buffer.open()
        self._buffer.start()
        if leaving:
            change = OutletChange({}, {}, list(leaving))
            await self._buffer.rearrange(plan.buffer, rules_of(plan), change, seconds=_REST_SECONDS)
        if replays:
            replay_to_outlets(plan, self._dead_letters, self._buffer)

    @started
    async def statistics(self) -> BufferStatistics:
        """Return a snapshot of the counters."""
        return self._buffer.statistics()

    @started
    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are."""
        return await self._buffer.find(event_id)

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return the buffer and its outlets."""
        return tapped_of(self._buffer)

    @started
    async def flush(self) -> None:
        """Let emitters that collect complete what they have."""
        await self._buffer.flush()

    @started
    async def drain_buffer(self) -> None:
        """Return when every outlet has delivered what it holds."""
        await self._buffer.drain()

    @started
    async def change(self, number: int, packed: bytes, renamed: Mapping[str, str], seconds: float) -> None:
        """Have other outlets, or other rules for them, from the next batch on; raises `ChangeError`.

        `renamed` are former names by those of now. Outlets whose emitter has another actor go on with that one when
        they are told to: see `exchange`.
        """
        if number == self._number:  # a process that was started since has begun with it
            return
        (new,) = unpack(packed)
        plan, emitters, _, leaving = new
        renamed = {name: old for name, old in renamed.items() if old in self._leads_to and name not in self._leads_to}
        former = {old: name for name, old in renamed.items()}
        leads_to = {former.get(name, name): handle for name, handle in self._leads_to.items()}
        # One that leaves and is not here has left already, or never came.
        known = leads_to.keys() | set(leaving)
        fresh = {name: handle for name, handle in emitters.items() if name not in known}
        self._leads_to = {**leads_to, **fresh}
        links = {name: self._link(name) for name in fresh}
        change = OutletChange(links, renamed, [name for name in leaving if name in self._buffer.outlets])
        try:
            await self._buffer.rearrange(plan.buffer, rules_of(plan), change, seconds=seconds)
        except (JournalError, TimeoutError) as error:
            back = {name: old for old, name in former.items()}
            self._leads_to = {back.get(name, name): handle for name, handle in leads_to.items()}
            text = str(error) or f"the buffer did not come to rest within {seconds:g} s: what it writes to hangs"
            raise ChangeError([text]) from None
        self._arguments = new
        self.take_over(number, packed)
        replay_to(plan, self._dead_letters)

    @started
    async def exchange(self, name: str, grace: float) -> int:
        """Deliver to the emitter's actor of now; return how many events that may have had before get again.

        What is in flight has `grace` seconds to get its answers.
        """
        before, handle = self._leads_to[name], self._arguments.emitters[name]
        if same(before, handle):
            return 0
        self._leads_to[name] = handle
        return await self._buffer.outlet(name).hand_over(self._link(name), before.release.remote, grace=grace)

    @started
    async def forget(self, name: str) -> None:
        """Return when an outlet that leaves has delivered what it has, and is no more."""
        if name in self._leads_to:
            await self._buffer.forget(name)
            self._leads_to.pop(name, None)

    @started
    async def halt(self) -> None:
        """Hand nothing more to emitters."""
        self._buffer.halt()

    @started
    async def settled(self) -> None:
        """Return when everything that is in flight to emitters has its answer."""
        await self._buffer.settled()

    def _link(self, name: str) -> Link:
        handle, plan = self._leads_to[name], self._arguments.plan
        return Link(f"{plan.name}/buffer/{name}", ObjectRefQueue(handle, f"emitter {name}"))


BufferActor = ray.remote(**ACTOR)(BufferShell)
