"""A part of a simulated cluster as a process that dies and begins again, and how others call it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Deferred, Receipt, Turn
from polku.errors import UnavailableError
from polku.link.link import Push
from polku.testing.simulation.loop import Process, current_process

if TYPE_CHECKING:
    from polku.testing.simulation.cluster import Cluster

T = TypeVar("T")


class SimulatedPart:
    """One part in its lives: `open` builds what runs in each of them."""

    def __init__(self, cluster: Cluster, name: str, open_: Callable[[SimulatedPart], Coroutine[Any, Any, Any]]) -> None:
        self.name = name
        self.life = 0
        self._retired = False
        self.running: Any = None
        self._cluster = cluster
        self._open = open_
        self._up = asyncio.Event()
        self.process = Process(name)
        self.begin()

    def begin(self) -> None:
        """Begin a life, unless it was retired: nothing runs in it until it is asked for something."""
        if self._retired:
            return
        self.life += 1
        self.running = None
        self._starting = asyncio.Lock()
        self.process = Process(self.name)
        self.process.on_death.append(self._die)
        self.death: asyncio.Future[None] = self._cluster.world.loop.create_future()
        self._up.set()
        self._cluster.restarted.set()
        _forget_epochs()

    def retire(self) -> None:
        """End: no life comes after this one."""
        self._retired = True
        self._cluster.world.loop.kill(self.process)
        self._up.set()  # who waits for another life finds that there is none

    @property
    def is_up(self) -> bool:
        """Whether its process lives and runs."""
        return not self.process.dead and self.running is not None

    async def wait_up(self) -> None:
        """Return when its process lives."""
        await self._up.wait()

    async def serve(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something in its process, which starts itself first."""
        await self.ensure_started()
        return await work(self.running)

    async def ensure_started(self) -> None:
        """Start what runs in it, once a life; raises `UnavailableError` in a life that is not the latest any more."""
        if current_process() is not self.process:
            raise UnavailableError(f"this life of {self.name} counts as lost", died=True)
        if self.running is None:
            async with self._starting:
                if self.running is None:
                    self.running = await self._open(self)

    def _die(self) -> None:
        world = self._cluster.world
        if self._retired:
            self.running = None
            self.death.set_result(None)
            return
        world.trace(f"{self.name} dies")
        world.ledger.count("deaths")
        world.ledger.chance_deaths[self.name] += self.process.died_by_chance
        self._cluster.on_death(self)
        self._up.clear()
        self.running = None
        self.death.set_result(None)
        self._cluster.revive(self)


class SimulatedPeer:
    """The receiving end of a link, in another part: of a chained lane, what comes `after` a stage."""

    def __init__(self, cluster: Cluster, target: str, after: str = "") -> None:
        self._cluster = cluster
        self._target = target
        self._after = (after,) if after else ()

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Send a copy of a batch."""
        header, payload = batch.header, batch.payload
        answer: Answer | Turn = await self._cluster.call(
            self._target, lambda shell: shell.push(push, Batch.from_wire(header, payload), *self._after)
        )
        return Accepted(Deferred(self._outcome, push)) if isinstance(answer, Accepted) else answer

    async def _outcome(self, push: Push) -> Receipt:
        """Ask for an outcome; an answer that is late is asked for again, as by calls of actors."""
        while True:
            try:
                receipt: Receipt = await self._cluster.call(
                    self._target, lambda shell: shell.outcome(push, *self._after)
                )
            except LateError:
                continue
            return receipt

    async def flush(self, everything: bool) -> None:
        """Let the part release what it holds."""
        await self._cluster.call(self._target, lambda shell: shell.flush(everything))


class LateError(UnavailableError):
    """Say that no answer came in time."""


def _forget_epochs() -> None:
    """Let a process begin without what the one before it knew."""
    from polku.link import epoch

    epoch._latest = 0
