"""The immutable, validated description of a pipeline: what a Hub builds and a runtime runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from polku.buffer.strategy import MAX_DURABLE_OUTLETS, BufferStrategy, Kind, Overflow
from polku.errors import PlanError
from polku.gateway.addresses import Addresses
from polku.gateway.tls import Tls
from polku.lazy import pattern
from polku.limits import Limits
from polku.scaling.rules import MOST as MOST_LANES
from polku.scaling.rules import Range, Scaling
from polku.tap.redaction import NOTHING, Redaction

if TYPE_CHECKING:
    from polku.external.registration_rules import PluginRules

_WORD = pattern(r"[\w.-]+")
PER_NODE: Final = "per-node"
"""Of lanes: one on each node."""


class AckLevel(StrEnum):
    """Say when a client is answered."""

    ACCEPTED = "accepted"
    """The buffer holds the events."""
    DURABLE = "durable"
    """They are on disk: the level of a durable buffer, unless `delivered` is chosen."""
    DELIVERED = "delivered"
    """Every emitter that they are routed to has confirmed them."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a stage needs of a node, in Ray's terms."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MiddlewarePlan:
    """One middleware, by the name it has in statistics and messages."""

    name: str
    component: object


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Neighbouring middleware that shares one actor.

    One with `replicas` works on as many batches at once; there are others by need where it has a `replica_range`. One
    that is `shared` is fed by all lanes. One of several `partitions` is as many actors, each of which has the events of
    its own keys.
    """

    name: str
    middleware: tuple[MiddlewarePlan, ...]
    resources: Resources = Resources()
    isolated: bool = False
    replicas: int = 1
    shared: bool = False
    partitions: int = 1
    replica_range: Range | None = None

    @property
    def replicated(self) -> bool:
        """Whether its work is divided among replicas, even if there is one now."""
        return self.replicas > 1 or self.replica_range is not None

    @property
    def most_replicas(self) -> int:
        """How many replicas there may be."""
        return self.replica_range.max if self.replica_range is not None else self.replicas

    @property
    def apart(self) -> bool:
        """Whether it needs an actor of its own, also in a chained lane."""
        divided = self.replicated or self.partitions > 1
        return self.isolated or self.shared or divided or self.resources != Resources()


@dataclass(frozen=True, slots=True)
class OutletPlan:
    """One emitter, by its routing address; `overflow` None means the buffer's own rule.

    Nobody waits for an emitter that is not `required`.
    """

    name: str
    emitter: object
    overflow: Overflow | None = None
    required: bool = True
    formerly: str | None = None  # the name that it had when it left events in the journal
    always: bool = False  # it gets every event, whatever `route_to` says


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source that the pipeline pulls from, by the name it has in statistics and health."""

    name: str
    source: object

    @property
    def one_lane(self) -> bool:
        """Whether of several lanes only the first of a disk has it: each one would pull the same."""
        return bool(getattr(self.source, "one_lane", False))

    def beside(self, journal: str) -> SourcePlan:
        """Return it with what it keeps beside the journal, if there is one, and if it keeps something."""
        place = getattr(self.source, "beside", None)
        if not journal or not callable(place):
            return self
        return replace(self, source=place(journal, self.name.replace("/", "_")))


@dataclass(frozen=True, slots=True)
class DeadLetterPlan:
    """Where dead letters are stored, and how many of them."""

    path: str
    max_events: int = 100_000
    max_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole pipeline: ingestors by source, stages in order, the buffer, and one outlet for each emitter."""

    name: str
    outlets: tuple[OutletPlan, ...]
    ingestors: tuple[tuple[str, object], ...] = ()
    default_ingestor: object | None = None
    sources: tuple[SourcePlan, ...] = ()
    stages: tuple[StagePlan, ...] = ()
    buffer: BufferStrategy = field(default_factory=BufferStrategy.ring)
    limits: Limits = field(default_factory=Limits)
    ack: AckLevel = AckLevel.ACCEPTED
    plugins: PluginRules | None = None
    listen: Addresses = field(default_factory=Addresses)
    tls: Tls | None = None
    tokens: str | None = None
    stamp: str = ""
    origins: tuple[str, ...] = ()
    require_security: bool = False
    hang_seconds: float = 30.0
    dead_letters: DeadLetterPlan | None = None
    lanes: int = 1
    lane_range: Range | None = None
    scaling: Scaling = field(default_factory=Scaling)
    per_node: bool = False  # a lane on each node, however many there are; `lanes` is 1 then
    spread: bool = False  # the lanes of a range are on all nodes, each that comes where there are the fewest
    had_lanes: bool = False  # while it runs there were several lanes: names and shared stages stay as they were then
    chained: bool = False
    traces: Callable[[], object] | None = None  # returns the `TracerProvider` of a process
    redaction: Redaction = NOTHING

    def __post_init__(self) -> None:
        if not self.outlets:
            raise PlanError("there is no emitter; add one with .emitter(StdoutEmitter())", where="Hub")
        _check_names(self.outlets)
        _check_former_names(self.outlets)
        _check_level(self.ack, self.buffer, len(self.outlets))
        _check_readers(self)
        if self.plugins is not None:
            self.plugins.check(has_principals=self.tokens is not None)
        _check_targets(self.stages, {outlet.name for outlet in self.outlets})
        if self.spread:
            _check_spread(self.buffer, self.dead_letters)
        if (self.lanes > 1 or self.lane_range or self.per_node) and self.plugins is not None:
            raise PlanError(
                "plugins register with one lane, and the others would not know them; use one lane with allow_plugins, "
                "or name the plugins: .ingestor(ExternalIngestor(...)), .emitter(ExternalEmitter(...))",
                where="lanes",
            )

    @property
    def batches_under_way(self) -> int:
        """How many batches each link up to the buffer has in flight: replicas all have one, and another at hand."""
        return 2 * max((stage.most_replicas for stage in self.stages), default=1)

    @property
    def side_by_side(self) -> bool:
        """Whether there are several lanes, or may be once nodes join: their parts' names begin with the lane's."""
        return self.lanes > 1 or self.lane_range is not None or self.per_node or self.had_lanes

    @property
    def over_nodes(self) -> bool:
        """Whether lanes are on other nodes than the one of the start, too."""
        return self.per_node or self.spread

    def beside(self) -> Plan:
        """Return the plan with its names and stages as several lanes have them, also where there is one now."""
        singles = [replace(stage, middleware=(one,)) for stage in self.stages for one in stage.middleware]
        return replace(self, had_lanes=True, stages=fuse(singles, side_by_side=True))

    def with_lanes(self, lanes: int) -> Plan:
        """Return the plan with another number of lanes; raises `PlanError`."""
        if not 1 <= lanes <= MOST_LANES:
            raise PlanError(f"lanes={lanes!r} must be a whole number from 1 to {MOST_LANES}", where="lanes")
        if self.lane_range is not None and lanes != self.lane_range.clamp(lanes):
            raise PlanError(f"lanes={lanes!r} is not within lanes(min=…, max=…): {self.lane_range}", where="lanes")
        plan = replace(self, lanes=lanes)
        return plan.beside() if lanes > 1 and not self.side_by_side else plan

    def with_replicas(self, stage: str, replicas: int) -> Plan:
        """Return the plan with another number of replicas of a stage."""
        return replace(self, stages=tuple(replace(s, replicas=replicas) if s.name == stage else s for s in self.stages))

    def lane(self, number: int, place: int | None = None) -> Plan:
        """Return the plan of one of several lanes (from 1): its links and its journal have names of their own.

        `place` says as which lane of its disk it stands there; without it all lanes share one.
        """
        if not self.side_by_side:
            return self
        buffer = self.buffer
        if buffer.path:
            buffer = replace(buffer, path=lane_path(buffer.path, place or number))
        sources = self.sources if (place or number) == 1 else tuple(s for s in self.sources if not s.one_lane)
        return replace(self, name=f"{self.name}/lane-{number}", buffer=buffer, sources=sources)


def lane_path(path: str, number: int) -> str:
    """Return where one lane keeps its journal: the first at `path` itself, so that one lane more loses nothing."""
    return path if number == 1 else f"{path}.lane-{number}"


def fuse(stages: Sequence[StagePlan], *, side_by_side: bool = False) -> tuple[StagePlan, ...]:
    """Merge neighbouring stages that need no actor of their own: a hop costs a process and 0.8 ms a batch.

    With lanes side by side, middleware whose state must be seen whole stands in stages that all of them share.
    """
    fused: list[StagePlan] = []
    for stage in stages:
        stage = replace(stage, shared=side_by_side and bool(state_keys(stage)))
        if fused and _fit(fused[-1], stage):
            fused[-1] = replace(fused[-1], middleware=fused[-1].middleware + stage.middleware)
        else:
            fused.append(stage)
    return tuple(replace(stage, name=f"stage-{number}") for number, stage in enumerate(fused, 1))


def kept_beside(stages: Sequence[StagePlan], buffer: BufferStrategy) -> list[StagePlan]:
    """Return the stages with what middleware keeps in files beside the journal; raises `PlanError`.

    A second one of a name has its number with it.
    """
    journal = buffer.path if buffer.kind is Kind.DURABLE else ""
    seen: Counter[str] = Counter()

    def placed(middleware: MiddlewarePlan) -> MiddlewarePlan:
        place = getattr(middleware.component, "beside", None)
        if not callable(place):
            return middleware
        found = _WORD.match(middleware.name)  # without the options: they may change
        name = found[0] if found else "middleware"
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        return replace(middleware, component=place(journal, name))

    return [replace(stage, middleware=tuple(map(placed, stage.middleware))) for stage in stages]


def state_keys(stage: StagePlan) -> dict[str, str]:
    """Return by what key each middleware of a stage keeps state that must be seen whole, by its name."""
    keys = {m.name: getattr(m.component, "state_key", None) for m in stage.middleware}
    return {name: str(key) for name, key in keys.items() if key}


def keeps_shared_state(stages: Sequence[StagePlan]) -> bool:
    """Return whether middleware keeps state that one client could spoil for others: by what they choose."""
    return any(
        _is_shared(part)
        for stage in stages
        for middleware in stage.middleware
        for part in getattr(middleware.component, "middleware_parts", (middleware.component,))
    )


def keyed_by(metadata: str, stages: Sequence[StagePlan]) -> list[StagePlan]:
    """Return the stages with that state kept for each value of a metadata entry, where nothing else was chosen."""

    def keyed(component: Any) -> Any:
        return replace(component, per=metadata) if _is_shared(component) else component

    def with_keys(middleware: MiddlewarePlan) -> MiddlewarePlan:
        with_parts = getattr(middleware.component, "with_middleware_parts", None)
        found = keyed(middleware.component) if with_parts is None else with_parts(keyed)
        return replace(middleware, component=found)

    return [replace(stage, middleware=tuple(map(with_keys, stage.middleware))) for stage in stages]


def _is_shared(component: object) -> bool:
    return is_dataclass(component) and getattr(component, "per", "") is None


def _fit(left: StagePlan, right: StagePlan) -> bool:
    if left.isolated or right.isolated or left.partitions > 1 or right.partitions > 1:
        return False
    alike = (left.resources, left.replicas, left.shared) == (right.resources, right.replicas, right.shared)
    return alike and left.replica_range == right.replica_range


def _check_level(level: AckLevel, buffer: BufferStrategy, emitters: int) -> None:
    durable = buffer.kind is Kind.DURABLE
    if level is AckLevel.DURABLE and not durable:
        raise PlanError(
            "level='durable' needs events on disk; add .buffer_strategy(BufferStrategy.durable('journal.db'))",
            where="ack",
        )
    if durable and emitters > MAX_DURABLE_OUTLETS:
        raise PlanError(
            f"{emitters} emitters: a durable buffer feeds {MAX_DURABLE_OUTLETS} at most; use two pipelines", where="Hub"
        )


def _check_names(outlets: Sequence[OutletPlan]) -> None:
    seen: set[str] = set()
    for outlet in outlets:
        if outlet.name in seen:
            raise PlanError(
                f"two emitters are called {outlet.name!r}; give one of them another name: "
                f".emitter(..., name='{outlet.name}-2')",
                where="Hub",
            )
        seen.add(outlet.name)


def _check_former_names(outlets: Sequence[OutletPlan]) -> None:
    names = {outlet.name for outlet in outlets}
    successors: dict[str, str] = {}
    for outlet in outlets:
        former, where = outlet.formerly, f"emitter {outlet.name!r}"
        if former is None:
            continue
        if former in names:
            raise PlanError(f"formerly={former!r} is the name of an emitter that there is; leave it out", where=where)
        if former in successors:
            other = successors[former]
            raise PlanError(f"formerly={former!r} was {other!r} too, by its own word; only one takes over", where=where)
        successors[former] = outlet.name


def _check_readers(plan: Plan) -> None:
    """Make sure that somebody can read the bytes that a source will pull."""
    if plan.default_ingestor is not None or plan.plugins is not None:
        return
    known = {source for source, _ in plan.ingestors}
    for source in plan.sources:
        for reader in getattr(source.source, "readers", ()):
            if reader not in known:
                raise PlanError(
                    f"pulls bytes for source {reader!r}, which has no ingestor; add .ingestor(..., source={reader!r})",
                    where=f"source {source.name!r}",
                )


def _check_targets(stages: Sequence[StagePlan], known: set[str]) -> None:
    for stage in stages:
        for middleware in stage.middleware:
            targets: Sequence[str] = getattr(middleware.component, "targets", ())
            for target in targets:
                if target not in known:
                    names = ", ".join(sorted(known))
                    raise PlanError(f"routes to {target!r}, which is no emitter; known are {names}", where="Router")


def _check_spread(buffer: BufferStrategy, letters: DeadLetterPlan | None) -> None:
    """Raise `PlanError` where lanes that may be on any node would leave files on its disk."""
    for what, path in (("journal", buffer.path), ("dead letters", letters.path if letters else "")):
        if path:
            raise PlanError(
                f"lanes(spread=True) have lanes on any node, and would leave the {what} ({path}) on its disk when they "
                'end there; use BufferStrategy.ring(…) without stored dead letters, or lanes("per-node")',
                where="lanes",
            )
