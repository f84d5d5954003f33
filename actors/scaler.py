"""Have a pipeline as many lanes and replicas as it needs: look once a second, decide, and do one thing at a time.

Ray's autoscaler sees what is asked for by itself: an actor that finds no room is a demand of its own, with its CPUs,
GPUs, labels and custom resources, until it is there or given up. `request_resources` would be one wish for the whole
cluster, which lasts after the program and takes the place of what others have wished.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import ray.exceptions
from msgspec.structs import replace

from polku.actors.changes import Changes, GaveWayError
from polku.actors.handles import ActorHandles
from polku.errors import ChangeError, PolkuError
from polku.monitoring.statistics import PipelineStatistics
from polku.plan import Plan, StagePlan
from polku.runtime.changing import Changed
from polku.scaling.decision import Decision, History, Look, decide
from polku.scaling.observing import Observer, Seen
from polku.scaling.rules import Range
from polku.scaling.scale import Scale
from polku.text import said

_LOG = logging.getLogger(__name__)
_INTERVAL = 1.0  # seconds between two looks
_LANES = "lanes"
_REST_SECONDS = 10.0  # as for other changes


class Scaler:
    """Change the number of lanes and replicas by need."""

    def __init__(
        self,
        changes: Changes,
        look: Callable[[], Awaitable[PipelineStatistics]],
        on_scales: Callable[[], None],
    ) -> None:
        self._changes = changes
        self._changing = asyncio.Lock()
        self._look = look
        self._on_scales = on_scales
        self._observer = Observer()
        self._histories: dict[str, History] = {}
        self.scales: dict[str, Scale] = {}
        self._is_at_work = False

    async def give_way(self) -> asyncio.Lock:
        """Return the lock that is held by who changes the pipeline; raises `ChangeError` where somebody else does."""
        if self._changing.locked():
            if not self._is_at_work:
                raise ChangeError(["another change is in progress"])
            await self._changes.give_way()
        return self._changing

    async def watch(self, parts: Callable[[], ActorHandles]) -> None:
        """Look, and change what is to be changed; does not end."""
        while True:
            await asyncio.sleep(_INTERVAL)
            if not (ranges := _ranges(self._changes.plan)):
                self._note({})
                continue
            try:
                tree = await self._look()
            except PolkuError:  # the supervisor is away
                continue
            self._observer.note(time.monotonic(), tree)
            for of, bounds in ranges.items():
                if await self._see_to(of, bounds, ranges, parts()):
                    break

    async def _see_to(self, of: str, bounds: Range, ranges: dict[str, Range], parts: ActorHandles) -> bool:
        """Decide about one number; return whether it was changed, or could not be."""
        rules, number = self._changes.plan.scaling, _number(self._changes.plan, of)
        lost = self._changes.lost if of == _LANES else 0
        leaving = frozenset(lane.name.rstrip("/") for lane in parts.lanes if lane.leaving)
        unhealthy = self._observer.unhealthy or (f"{min(leaving)} is leaving" if leaving else "")
        look = Look(
            time.monotonic(), number, *self._seen(of, ranges, leaving), self._changing.locked(), unhealthy, lost
        )
        history, decision = decide(rules, bounds, self._histories.get(of, History()), look)
        self._histories[of] = history
        scale = self.scales.get(of, Scale(of, number, number, *bounds))
        settled = number == bounds.clamp(number) and not lost
        if history.high_since is None and look.at >= history.rests_until and settled:
            scale = replace(scale, fault="")
        wanted = scale.wanted if scale.fault else number
        scale = replace(scale, number=number - lost, wanted=wanted, least=bounds.min, most=bounds.max)
        self._note({name: self.scales[name] for name in ranges if name in self.scales} | {of: scale})
        if decision is None or self._changing.locked():
            return False
        await self._change(scale, decision, history)
        return True

    def _seen(self, of: str, ranges: dict[str, Range], leaving: frozenset[str]) -> Seen:
        if of != _LANES:
            return self._observer.stage(of, self._changes.plan.scaling)
        return self._observer.lanes({name: each for name, each in ranges.items() if name != _LANES}, leaving)

    async def _change(self, scale: Scale, decision: Decision, history: History) -> None:
        text = f"{scale.number} → {decision.wanted} {_called(self._changes.plan, scale.of)}: {decision.reason}"
        scale = replace(scale, wanted=decision.wanted, reason=decision.reason)
        self._note(self.scales | {scale.of: scale})
        rules = self._changes.plan.scaling
        _LOG.info("%s", text)
        async with self._changing:
            self._is_at_work = True
            try:
                await self._do(scale.of, decision.wanted, rules.start_seconds)
            except GaveWayError as error:
                _LOG.info("%s; %s", text, said(error))
                self._histories[scale.of] = history.changed(rules, time.monotonic())
            except (PolkuError, ray.exceptions.RayError) as error:
                if self._changes.is_stopping:
                    return
                why = "; ".join(error.reasons) if isinstance(error, ChangeError) else said(error)
                _LOG.warning("%s; not done: %s", text, why)
                self._histories[scale.of] = history.failed(rules, time.monotonic())
                fault = f"{text}; {why}"
                scale = replace(scale, failures=scale.failures + 1, fault=fault)
            else:
                self._histories[scale.of] = history.changed(rules, time.monotonic())
                is_up = decision.wanted > scale.number
                scale = replace(scale, ups=scale.ups + is_up, downs=scale.downs + (not is_up), fault="")
                scale = replace(scale, number=decision.wanted)
            finally:
                self._is_at_work = False
        self._note(self.scales | {scale.of: scale})

    async def _do(self, of: str, wanted: int, seconds: float) -> Changed:
        if of == _LANES and wanted == self._changes.plan.lanes:
            return await self._changes.restore()
        if of == _LANES:
            return await self._changes.update(self._changes.plan.with_lanes(wanted), _REST_SECONDS)
        return await self._changes.resize(of, wanted, seconds)

    def _note(self, scales: dict[str, Scale]) -> None:
        if scales != self.scales:
            self.scales = scales
            self._on_scales()


def _ranges(plan: Plan) -> dict[str, Range]:
    """Return what has a range: stages before lanes, as a step that is slow needs replicas first."""
    found = {stage.name: stage.replica_range for stage in plan.stages if stage.replica_range is not None}
    return {**found, _LANES: plan.lane_range} if plan.lane_range is not None else found


def _number(plan: Plan, of: str) -> int:
    return plan.lanes if of == _LANES else _stage(plan.stages, of).replicas


def _called(plan: Plan, of: str) -> str:
    if of == _LANES:
        return of
    return f"replicas of {of} ({', '.join(step.name for step in _stage(plan.stages, of).middleware)})"


def _stage(stages: Sequence[StagePlan], name: str) -> StagePlan:
    return next(stage for stage in stages if stage.name == name)
