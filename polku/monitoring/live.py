"""The live page's stream: statistics once a second, as server-sent events.

A tree is made once for all pages, and none while no page is open; one that reads slowly misses what came meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from msgspec import structs

from polku.aio.tasks import TaskSet
from polku.errors import PolkuError
from polku.log import RepeatedLog
from polku.monitoring.encoding import encoded
from polku.monitoring.history import SECONDS, History
from polku.monitoring.page import page
from polku.monitoring.problems import Deaths, Restarts, find_letters, find_problems
from polku.monitoring.statistics import PartHealth, PipelineStatistics, PlanStatistics
from polku.text import named, said
from polku.usercode import is_ours

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_READERS = 16
_TICK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_SHOWN = tuple(name for name in PipelineStatistics.__struct_fields__ if name not in ("plan", "dead_letters"))


class Live:
    """Look at the statistics and tell all readers; `unhealthy` are parts that the statistics know nothing of."""

    def __init__(
        self,
        statistics: Callable[[], Awaitable[PipelineStatistics]],
        unhealthy: Callable[[PipelineStatistics], Mapping[str, PartHealth]],
        addresses: Mapping[str, str],
    ) -> None:
        self._statistics = statistics
        self._unhealthy = unhealthy
        self._addresses = addresses
        self._address = ""
        self._history = History()
        self._restarts = Restarts()
        self._deaths = Deaths()
        self._plan: PlanStatistics | None = None
        self._plans = 0  # how many there have been: after a change readers are told the new one
        self._latest = b""
        self._readers = 0
        self._wanted = asyncio.Event()
        self._told: asyncio.Future[None] | None = None
        self._tasks = TaskSet("the live page")

    @property
    def is_full(self) -> bool:
        """Whether as many read as may."""
        return self._readers >= _READERS

    def start(self, address: str) -> None:
        """Begin to look: every few seconds, for what was before, and each second while somebody reads.

        `address` is the admin address, at which commands that are shown ask.
        """
        self._address = address
        self._tasks.keep_alive("look", self._run)

    def close(self) -> None:
        """End it."""
        self._tasks.cancel("look")

    async def follow(self, *, may_see_events: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events: `hello` with the plan and the past, then a `tick` with the tree each second,
        what is wrong, and the commands for dead letters. `may_see_events` tells the reader whether it may ask for some.

        `trouble` says in a sentence why there is none.
        """
        if self.is_full:  # by now: many may have asked at once
            return
        if not self._readers:
            self._wanted.set()
        self._readers += 1
        plans = 0
        try:
            while True:
                await asyncio.shield(self._next())
                if self._plan is not None and plans != self._plans:
                    plans = self._plans
                    yield self._hello(self._plan, may_see_events)
                yield self._latest
        finally:
            self._readers -= 1

    def _next(self) -> asyncio.Future[None]:
        """Return the future of the next event for all readers."""
        if self._told is None or self._told.done():
            self._told = asyncio.get_running_loop().create_future()
        return self._told

    async def _run(self) -> None:
        while True:
            await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS if self._readers else SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                tree = await self._statistics()
            self._take(tree)
        except TimeoutError:
            self._tell("trouble", {"text": f"there are no statistics: no answer within {_ANSWER_SECONDS:.0f} s"})
        except PolkuError as error:  # the supervisor is away, or the pipeline has stopped
            self._tell("trouble", {"text": said(error)})
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("live", "there are no statistics for the live page")
            self._tell("trouble", {"text": f"there are no statistics: {named(error)}"})

    def _take(self, tree: PipelineStatistics) -> None:
        if self._history.is_due(tree.time_ns):
            self._history.add(tree)
        self._restarts.look(tree.processes)
        self._deaths.look(tree)
        if not self._readers:
            return
        if tree.plan != self._plan:
            self._plan = tree.plan
            self._plans += 1
        unhealthy = self._unhealthy(tree)
        if unhealthy:
            tree = structs.replace(tree, healthy=False, parts={**tree.parts, **unhealthy})
        problems = [*find_problems(tree, self._restarts.recent()), *self._deaths.recent(self._address)]
        shown = {name: getattr(tree, name) for name in _SHOWN}
        letters = find_letters(tree, self._address)
        self._tell("tick", {**shown, "problems": problems, "letters": letters})

    def _hello(self, plan: PlanStatistics, may_see_events: bool) -> bytes:
        told = {
            "page": page().version,
            "addresses": dict(self._addresses),
            "may_see_events": may_see_events,
            "plan": plan,
            "history": self._history.to_json(),
        }
        return _event("hello", told)

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self._latest = _event(kind, data)
        if self._told is not None and not self._told.done():
            self._told.set_result(None)


def _event(kind: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encoded(data))
