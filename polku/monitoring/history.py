"""The last ten minutes of a pipeline: of each part how many events a second it took, and how many waited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from polku.monitoring.stage_statistics import StageStatistics
from polku.monitoring.statistics import LaneStatistics, PipelineStatistics

SECONDS = 5.0  # between two points
_POINTS = 120
_PARTS = 1_000  # of which the past is remembered


class History:
    """Take a tree every `SECONDS`, and remember two numbers of each part, for ten minutes."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[list[float], list[float]]] = {}
        self._counted: dict[str, int] = {}
        self._time_ns = 0

    def is_due(self, time_ns: int) -> bool:
        """Return whether the next point is to be taken at a Unix time in nanoseconds."""
        return time_ns - self._time_ns >= SECONDS * 1e9

    def add(self, tree: PipelineStatistics) -> None:
        """Take the next point; parts that are no more are forgotten."""
        seconds = (tree.time_ns - self._time_ns) / 1e9
        self._time_ns = tree.time_ns
        before, self._counted = self._counted, {}
        rows, self._rows = self._rows, {}
        for name, counted, waiting in islice(_counts(tree), _PARTS):
            self._counted[name] = counted
            # A counter that has begun again, with its part's process, has counted nothing.
            rate = max(0, counted - before.get(name, counted)) / seconds
            self._rows[name] = row = rows.get(name, ([], []))
            for numbers, value in zip(row, (rate, waiting), strict=True):
                numbers.append(round(value, 1))
                del numbers[:-_POINTS]

    def to_json(self) -> dict[str, Any]:
        """Return by part the events a second and those that waited, the latest last, and the time of the latest.

        What came in and what was delivered, of the whole pipeline, are the first rows of `>in` and `>out`.
        """
        return {"seconds": SECONDS, "time": self._time_ns / 1e9, "parts": dict(self._rows)}


def _counts(tree: PipelineStatistics) -> Iterator[tuple[str, int, int]]:
    """Yield each part with what it has counted until now, and what waits in it."""
    outlets = [outlet for lane in tree.lanes if lane.buffer is not None for outlet in lane.buffer.outlets.values()]
    yield ">in", sum(lane.ingest.received for lane in tree.lanes if lane.ingest is not None), 0
    yield ">out", sum(outlet.confirmed for outlet in outlets), 0
    for lane in tree.lanes:
        yield from _of_lane(f"{lane.name}/" if lane.name else "", lane)
    for name, counts in _whole(tree.shared).items():
        yield name, *counts


def _of_lane(begin: str, lane: LaneStatistics) -> Iterator[tuple[str, int, int]]:
    if lane.ingest is not None:
        yield f"{begin}ingest", lane.ingest.received, lane.ingest.open_messages
        for name, source in lane.ingest.sources.items():
            yield f"{begin}source:{name}", source.records, source.lag
    for name, counts in _whole(lane.stages).items():
        yield f"{begin}{name}", *counts
    if lane.buffer is None:
        return
    yield f"{begin}buffer", lane.buffer.received, lane.buffer.events
    for name, outlet in lane.buffer.outlets.items():
        yield f"{begin}emitter:{name}", outlet.confirmed + outlet.dead, outlet.waiting


def _whole(stages: Mapping[str, StageStatistics]) -> dict[str, tuple[int, int]]:
    """Return what stages have received and hold, those of replicas, or partitions, as one."""
    found: dict[str, tuple[int, int]] = {}
    for name, stage in stages.items():
        received, held = found.get(name.partition("/")[0], (0, 0))
        found[name.partition("/")[0]] = received + stage.received, held + stage.held
    return found
