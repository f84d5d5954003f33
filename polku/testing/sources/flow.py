"""Run a source in a pipeline whose emitter can be held up, and see what becomes of its records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

from polku.batch.batch import Batch
from polku.event.v1.event_pb2 import Event
from polku.limits import Limits
from polku.testing.conformance.driven import BrokenError
from polku.testing.sources.origin import Origin

if TYPE_CHECKING:
    from polku.pipeline import Pipeline
    from polku.runtime.report import StopReport

MESSAGE_BYTES = 64 * 1024
"""The largest event that the pipeline takes."""

_LOOK = 0.02
_CLOSING = 15.0  # what a stop may take beyond its timeout: a source may have ten seconds to close


class Flow:
    """A pipeline with one source, which acknowledges what its emitter has taken."""

    def __init__(self, origin: Origin, *, held: bool = False) -> None:
        self.entered = 0
        self.delivered: list[str] = []
        self._origin = origin
        self._held = held
        self._pipeline: Pipeline | None = None
        self._name = ""

    async def __aenter__(self) -> Self:
        from polku.hub import Hub

        hub = Hub(name="check", runtime="inline").limits(Limits(message_bytes=MESSAGE_BYTES)).ack("delivered")
        hub.source(self._origin.source()).middleware(self._count).emitter(self._deliver, name="check")
        pipeline = self._pipeline = hub.start()
        await pipeline.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop(0.0)

    def release(self) -> None:
        """Have the emitter take what comes."""
        self._held = False

    def hold(self) -> None:
        """Have the emitter take nothing until `release`."""
        self._held = True

    @property
    def running(self) -> Pipeline:
        """The pipeline."""
        assert self._pipeline is not None
        return self._pipeline

    async def stop(self, timeout: float) -> StopReport:
        """Stop the pipeline; a source that keeps it longer than it has breaks the contract."""
        try:
            async with asyncio.timeout(timeout + _CLOSING):
                return await self.running.stop_async(timeout)
        except TimeoutError:
            fix = "return from run after stop, and bound what drain and close wait for"
            raise BrokenError(f"a stop of {timeout:g} s did not return within {timeout + _CLOSING:g} s", fix) from None

    async def dead_letters(self, seconds: float = 10.0) -> list[str]:
        """Return the reasons of the dead letters, as soon as there is any; of none after some seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            letters = await asyncio.to_thread(self.running.dead_letters)
            if letters or asyncio.get_running_loop().time() > deadline:
                return [letter.reason for letter in letters]
            await asyncio.sleep(_LOOK)

    def alarm(self) -> str:
        """Return what health says is wrong with the source; empty where it is well."""
        (found,) = (part for name, part in self.running.health().components.items() if name.startswith("source:"))
        healthy, text = found
        return "" if healthy else text or "no reason"

    async def has(self, texts: list[str]) -> None:
        """Wait until these records have arrived, perhaps more than once."""
        await until(lambda: set(texts) <= set(self.delivered))

    def _count(self, event: Event) -> Event:
        self.entered += 1
        return event

    async def _deliver(self, batch: Batch) -> None:
        while self._held:  # noqa: ASYNC110 - `release` is called in another thread's event loop
            await asyncio.sleep(_LOOK)
        self.delivered += map(self._origin.text, batch.events)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not true():  # noqa: ASYNC110 - the pipeline has no event for it
        await asyncio.sleep(_LOOK)


async def until_so(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so that has to be asked for."""
    while not await true():  # noqa: ASYNC110 - an origin has no event for it
        await asyncio.sleep(_LOOK)


async def at_rest(number: Callable[[], int], seconds: float = 0.5) -> int:
    """Return a number once it is not zero and has not changed for some time."""
    loop = asyncio.get_running_loop()
    before, since = number(), loop.time()
    while not before or loop.time() - since < seconds:
        await asyncio.sleep(_LOOK)
        if (now := number()) != before:
            before, since = now, loop.time()
    return before
