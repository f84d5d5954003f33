"""What the statistics of a pipeline say about the need for lanes and replicas.

The utilization of a lane is that of its busiest part: the share of the latest seconds that a process has used of a
core, or that a stage has been at work. An age counts where more lanes would help: not that of an emitter whose
destination takes nothing, nor the time for which events are collected or held on purpose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from polku.scaling.rules import Range, Scaling

if TYPE_CHECKING:
    from polku.monitoring.statistics import LaneStatistics, PipelineStatistics

_WINDOW_SECONDS = 5.0
_OWN = ("scaling", "reload")  # parts that say what became of changes


class Seen(NamedTuple):
    """The age of the oldest event in seconds, and the utilization, 0 to 1."""

    oldest_seconds: float
    utilization: float


class Observer:
    """Remember how much processor time each process had used at the latest looks."""

    def __init__(self) -> None:
        self._cpu: deque[tuple[float, dict[str, float]]] = deque()
        self._tree: PipelineStatistics | None = None

    def note(self, at: float, tree: PipelineStatistics) -> None:
        """Look at statistics of a time (seconds of a clock that only goes forth)."""
        self._tree = tree
        self._cpu.append((at, {name: process.cpu_seconds for name, process in tree.processes.items()}))
        while len(self._cpu) > 2 and self._cpu[1][0] <= at - _WINDOW_SECONDS:
            self._cpu.popleft()

    @property
    def unhealthy(self) -> str:
        """The first part that is unhealthy, and why; empty where none is."""
        if self._tree is None:
            return "nothing was seen yet"
        parts = self._tree.parts.items()
        return next((f"{name}: {p.message}" for name, p in parts if not p.healthy and name not in _OWN), "")

    def lanes(self, growing: Mapping[str, Range], leaving: frozenset[str] = frozenset()) -> Seen:
        """Return what lanes say, without those that are leaving; stages that are `growing` have means of their own."""
        lanes = [lane for lane in self._lanes() if lane.name not in leaving]
        if not lanes:
            return Seen(0.0, 0.0)
        open_stages = {
            stage for lane in lanes for stage, bounds in growing.items() if len(_replicas(lane, stage)) < bounds.max
        }
        oldest = max(self._oldest(lane, counts_ingest=not open_stages) for lane in lanes)
        return Seen(oldest, sum(self._busiest(lane, open_stages) for lane in lanes) / len(lanes))

    def stage(self, stage: str, rules: Scaling) -> Seen:
        """Return what the replicas of a stage say, where they are busiest; the age counts where they are at work."""
        oldest = utilization = 0.0
        for lane in self._lanes():
            share = _mean(_replicas(lane, stage))
            utilization = max(utilization, share)
            if share >= rules.idle:
                oldest = max(oldest, self._ingest_age(lane))
        return Seen(oldest, utilization)

    def _lanes(self) -> tuple[LaneStatistics, ...]:
        return () if self._tree is None else self._tree.lanes

    def _oldest(self, lane: LaneStatistics, *, counts_ingest: bool) -> float:
        ages = [self._ingest_age(lane)] if counts_ingest else []
        return max([*ages, *self._outlet_ages(lane)], default=0.0)

    def _ingest_age(self, lane: LaneStatistics) -> float:
        """Return for how long the oldest event has been in front of the buffer; 0 where something holds some back."""
        assert self._tree is not None
        stages = [*lane.stages.values(), *self._tree.shared.values()]
        if lane.ingest is None or lane.ingest.link is None or any(stage.held for stage in stages):
            return 0.0
        return lane.ingest.link.oldest_age_seconds

    def _outlet_ages(self, lane: LaneStatistics) -> Iterator[float]:
        assert self._tree is not None
        prefix = f"{lane.name}/" if lane.name else ""
        for name, outlet in (lane.buffer.outlets if lane.buffer is not None else {}).items():
            part, emitter = self._tree.parts.get(f"{prefix}emitter:{name}"), lane.emitters.get(name)
            if not outlet.required or part is None or not part.healthy or emitter is None:
                continue
            collected = emitter.collection.max_age_seconds if emitter.collection is not None else 0.0
            yield max(0.0, outlet.oldest_age_seconds - collected)

    def _busiest(self, lane: LaneStatistics, open_stages: set[str]) -> float:
        names = {name.partition("/")[0] for name in lane.stages} - open_stages
        return max(
            max((_mean(_replicas(lane, name) or [lane.stages[name].utilization]) for name in names), default=0.0),
            max((share for name, share in self._shares(lane) if name not in open_stages), default=0.0),
        )

    def _shares(self, lane: LaneStatistics) -> Iterator[tuple[str, float]]:
        """Yield how much of a core each process of a lane has used, by the name of its part."""
        (then, before), (now, after) = self._cpu[0], self._cpu[-1]
        for name, seconds in after.items():
            if lane.name and name != lane.name and not name.startswith(f"{lane.name}/"):
                continue
            if now > then and name in before and "/replica-" not in name:
                yield name.removeprefix(f"{lane.name}/"), min(max(0.0, seconds - before[name]) / (now - then), 1.0)


def _replicas(lane: LaneStatistics, stage: str) -> list[float]:
    return [each.utilization for name, each in lane.stages.items() if name.startswith(f"{stage}/replica-")]


def _mean(shares: list[float]) -> float:
    return sum(shares) / len(shares) if shares else 0.0
