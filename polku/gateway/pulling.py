"""What sources pull goes the way of what clients send: the same ingestors, limits, ids and links.

A source hands in records by streams, each of which keeps its order (`polku.gateway.pulled_stream`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from polku.clock import Clock
from polku.contracts import Source, SourceState
from polku.errors import PlanError
from polku.gateway.intake import Intake
from polku.gateway.pulled_stream import Bury, Stream
from polku.hooks import CLOSE_SECONDS, call_hook, close_each, close_hook, start_hook
from polku.log import RepeatedLog
from polku.text import named
from polku.usercode import contained, is_ours

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_END_SECONDS = 10.0  # for a source that leaves, until what it has pulled is in
_AGAIN_SECONDS = 5.0  # until a source whose code failed runs again


def as_source(component: Any, clock: Clock) -> Source:
    """Make the running object of a source; raises `PlanError` where that is none."""
    running = component.build(clock) if callable(getattr(component, "build", None)) else component
    if not isinstance(running, Source):
        raise PlanError(f"{running!r} lacks one of run, stop, drain, close and state", where="source")
    return running


class Sources:
    """Run the sources of a pipeline beside its intake; one that fails is started again, and health says so."""

    def __init__(self, sources: Mapping[str, Source], intake: Intake, bury: Bury) -> None:
        self._sources = dict(sources)
        self._intake = intake
        self._bury = bury
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._faults: dict[str, str] = {}
        self._stopped = False

    async def start(self) -> None:
        """Begin to pull, unless it was stopped before; raises `PlanError` where a source can never work."""
        if self._stopped:
            return
        for name, source in self._sources.items():
            await start_hook(f"source {name!r}", source)
            self._begin(name, source)

    async def exchange(self, sources: Mapping[str, Source], gone: Collection[str]) -> None:
        """Pull from these sources too, which are started: from one of the same name instead of that one.

        What leaves pulls nothing more, and is released once what it has pulled is in.
        """
        leaving = [name for name in self._sources if name in gone or name in sources]
        await asyncio.gather(*map(self._end, leaving))
        for name, source in sources.items():
            self._sources[name] = source
            if self._stopped:
                source.stop()
            self._begin(name, source)

    def _begin(self, name: str, source: Source) -> None:
        task = asyncio.get_running_loop().create_task(self._run(name, source), name=f"source {name}")
        self._tasks[name] = task

    async def _end(self, name: str) -> None:
        source = self._sources[name]
        self._ask_to_stop(name, source)
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._drain(name, source)
        except TimeoutError:
            _LOG.warning("source %r is released before all that it has pulled is in: it will be pulled again", name)
        if task := self._tasks.pop(name, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await close_hook(f"source {name!r}", source)
        del self._sources[name]
        self._faults.pop(name, None)

    def _ask_to_stop(self, name: str, source: Source) -> None:
        try:
            source.stop()
        except BaseException as error:
            _LOG.error("source %r could not be stopped: %s", name, named(error), exc_info=error)

    def stop(self) -> None:
        """Pull nothing more."""
        self._stopped = True
        for name, source in self._sources.items():
            self._ask_to_stop(name, source)

    async def drain(self) -> None:
        """Return when what was pulled is answered and confirmed to where it came from."""
        self.stop()
        await asyncio.gather(*(self._drain(name, self._sources[name]) for name in self._tasks))

    async def close(self) -> None:
        """Let go of the sources."""
        self.stop()
        sources = list(self._sources.items())
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await close_each([(f"source {n!r}", partial(call_hook, s, "close", seconds=CLOSE_SECONDS)) for n, s in sources])

    def states(self) -> dict[str, SourceState]:
        """Return how each source is."""
        states = {name: _state(source) for name, source in self._sources.copy().items()}
        return {name: state._replace(alarm=self._faults.get(name) or state.alarm) for name, state in states.items()}

    async def _drain(self, name: str, source: Source) -> None:
        """Wait for one source; one that fails keeps nobody else from the drain."""
        try:
            await contained(source.drain())
        except Exception as error:
            _LOG.error("source %r could not be drained: %s", name, named(error), exc_info=error)

    async def _run(self, name: str, source: Source) -> None:
        def open_stream(source: str, **options: Any) -> Stream:
            return Stream(self._intake, self._bury, source, **options)

        while not self._stopped:
            self._faults.pop(name, None)
            try:
                # A task of its own: the code may cancel the one that it runs in.
                await asyncio.ensure_future(contained(source.run(open_stream)))
                return
            except BaseException as error:
                if is_ours(error):
                    raise
                _REPEATED.exception(name, "source %r failed", name)
                self._faults[name] = named(error)
            await asyncio.sleep(_AGAIN_SECONDS)  # a fault of the code, not of the far end: that is the source's matter


def _state(source: Source) -> SourceState:
    try:
        return source.state()
    except BaseException as error:
        return SourceState("unknown", f"its state() raises {named(error)}")
