"""The handles of a pipeline's actors, under the names that health and statistics use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class LaneHandles(NamedTuple):
    """The handles of one lane's actors; `name` begins the names of its parts. A chained lane has one for all.

    `address` is its node's. `is_first` on its disk: the only one there that replays and lists dead letters, which are
    in one file. `scope` is what health and metrics at its doors are about: it alone where each node has one, else
    (empty) all. One that is `leaving` takes nothing new.
    """

    name: str
    number: int
    ingest: Any
    stages: Mapping[str, Any]
    buffer: Any
    emitters: Mapping[str, Any]
    address: str
    is_first: bool
    scope: str
    leaving: bool = False

    @property
    def chained(self) -> bool:
        """Whether the lane is in one actor."""
        return self.ingest is self.buffer

    @property
    def door(self) -> str:
        """The name of the actor that clients talk to."""
        return (self.name.rstrip("/") or "lane") if self.chained else f"{self.name}ingest"

    def all(self) -> dict[str, Any]:
        """Return every handle of the lane under the name that health and statistics use, from front to back."""
        stages = {f"{self.name}{name}": handle for name, handle in self.stages.items()}
        if self.chained:
            return {self.door: self.ingest, **stages}
        emitters = {f"{self.name}emitter:{name}": handle for name, handle in self.emitters.items()}
        return {self.door: self.ingest, **stages, f"{self.name}buffer": self.buffer, **emitters}

    def behind(self) -> list[Any]:
        """Return the handles of all parts but the one that clients talk to."""
        return [handle for name, handle in self.all().items() if name != self.door]


class ActorHandles(NamedTuple):
    """The handles of a pipeline's actors: of every lane, and of the stages that they share."""

    lanes: tuple[LaneHandles, ...]
    shared: Mapping[str, Any]

    @property
    def taking(self) -> tuple[LaneHandles, ...]:
        """The lanes that take events: all but those that leave."""
        return tuple(lane for lane in self.lanes if not lane.leaving)

    def behind(self) -> list[Any]:
        """Return the handles of all parts of lanes but those that clients talk to."""
        return [handle for lane in self.lanes for handle in lane.behind()]

    def all(self) -> dict[str, Any]:
        """Return every handle under the name that health and statistics use."""
        return {**{name: handle for lane in self.lanes for name, handle in lane.all().items()}, **self.shared}

    def by_lane(self) -> list[tuple[str, str, Any]]:
        """Return every handle with what its lane's names begin with, and its own name there."""
        own = [
            (lane.name, name.removeprefix(lane.name), handle)
            for lane in self.lanes
            for name, handle in lane.all().items()
        ]
        return [*own, *(("", name, handle) for name, handle in self.shared.items())]

    def stages(self) -> list[Any]:
        """Return the handles of all stages."""
        return [handle for lane in self.lanes for handle in lane.stages.values()] + list(self.shared.values())
