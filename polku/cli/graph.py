"""Draw a plan, for people and as Mermaid."""

from __future__ import annotations

from itertools import pairwise

from polku.monitoring.picture import destination, shown
from polku.plan import MiddlewarePlan, OutletPlan, Plan, StagePlan, state_keys


def outline(plan: Plan) -> list[str]:
    """Return a line for each part of a plan, in the order in which events pass."""
    sources = ", ".join(source for source, _ in plan.ingestors)
    default = f"; others: {type(plan.default_ingestor).__name__}" if plan.default_ingestor is not None else ""
    lines = [f"lanes     {_lanes(plan)}"] if plan.side_by_side or plan.chained else []
    lines.append(f"ingest    protobuf events; raw bytes of {sources}{default}")
    lines += [f"source    {source.name}{_target(source.source)}: {shown(source.source)}" for source in plan.sources]
    lines += [f"{stage.name:<9} {_middleware(stage)}{_needs(stage)}{_state(stage)}" for stage in plan.stages]
    buffer = plan.buffer
    lines.append(f"buffer    {buffer.kind}, {buffer.capacity} events an emitter, when full: {buffer.overflow}")
    lines += [f"emitter   {outlet.name}{_target(outlet.emitter)}: {_emitter(outlet)}" for outlet in plan.outlets]
    return lines


def _target(component: object) -> str:
    """Return where a component connects to, where it says so."""
    place = destination(component)
    return f" ({place})" if place else ""


def _emitter(outlet: OutletPlan) -> str:
    """Return how an emitter shows itself, without a name that is not the one it has here."""
    text, own = shown(outlet.emitter), getattr(outlet.emitter, "name", outlet.name)
    return text if own == outlet.name else text.replace(f", name={own!r}", "", 1).replace(f"(name={own!r}, ", "(", 1)


def mermaid(plan: Plan) -> str:
    """Return the plan as a Mermaid flowchart: a chained lane, and each of several, stands in a box."""
    lines = ["flowchart LR", '  clients(["clients"])']
    lines += [f'  {node}(["{_escape(name)}"])' for node, name in _sources(plan).items()]
    for number in range(1, plan.lanes + 1):
        lines += _Lane(plan, number).lines()
    lines += [f'  {_node(stage)}["{_label(stage)}"]' for stage in plan.stages if stage.shared]
    return "\n".join(lines)


class _Lane:
    """Draw one lane; the nodes of several lanes are numbered, those of a stage that they share are one."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._plan = plan
        self._number = number
        self._end = f"_{number}" if plan.lanes > 1 else ""

    def lines(self) -> list[str]:
        inside = [self._ingest(), *self._stages(apart=False), self._buffer(), *self._emitters().values()]
        if self._plan.chained or self._plan.side_by_side:
            inside = [f"  subgraph lane{self._end}[{self._title()}]", *(f"  {node}" for node in inside), "  end"]
        return [*inside, *self._stages(apart=True), *self._arrows()]

    def _title(self) -> str:
        name = f"lane {self._number}" if self._end else "lane"
        name = "lane of each node" if self._plan.per_node else name
        return f'"{name}, one actor"' if self._plan.chained else f'"{name}"'

    def _ingest(self) -> str:
        return f'  ingest{self._end}["ingest"]'

    def _stages(self, *, apart: bool) -> list[str]:
        """Draw the stages of this lane that stand within its box, or those that do not."""
        own = [stage for stage in self._plan.stages if not stage.shared]
        return [
            f'  {_node(stage)}{self._end}["{_label(stage)}"]'
            for stage in own
            if apart == (self._plan.chained and stage.apart)
        ]

    def _buffer(self) -> str:
        buffer = self._plan.buffer
        return f'  buffer{self._end}[("{buffer.kind} {buffer.capacity}<br/>{buffer.overflow}")]'

    def _emitters(self) -> dict[str, str]:
        nodes = [(f"emitter_{n}{self._end}", outlet) for n, outlet in enumerate(self._plan.outlets, 1)]
        return {node: f'  {node}["{_escape(outlet.name)}"]' for node, outlet in nodes}

    def _arrows(self) -> list[str]:
        stages = [_node(stage) + ("" if stage.shared else self._end) for stage in self._plan.stages]
        path = ["clients", f"ingest{self._end}", *stages, f"buffer{self._end}"]
        pulled = [(node, path[1]) for node in _sources(self._plan)]
        arrows = [*pulled, *pairwise(path), *((path[-1], node) for node in self._emitters())]
        return [f"  {left} --> {right}" for left, right in arrows]


def _sources(plan: Plan) -> dict[str, str]:
    """Return the names of what is pulled from, by node."""
    return {f"source_{number}": source.name for number, source in enumerate(plan.sources, 1)}


def _lanes(plan: Plan) -> str:
    side = f"{plan.lanes}, side by side behind one port" if plan.lanes > 1 else "1"
    side = f"{plan.lane_range} as needed, {_where(plan)}" if plan.lane_range else side
    side = "one on each node, at the same port" if plan.per_node else side
    return f"{side}, each in one actor" if plan.chained else side


def _where(plan: Plan) -> str:
    return "over all nodes, at the same port" if plan.spread else "side by side behind one port"


def _node(stage: StagePlan) -> str:
    return stage.name.replace("-", "_")


def _label(stage: StagePlan) -> str:
    divided = ", ".join(_divided(stage))
    return _escape(_middleware(stage)) + (f"<br/>{divided}" if divided else "")


def _middleware(stage: StagePlan) -> str:
    return " → ".join(map(_named, stage.middleware))


def _named(middleware: MiddlewarePlan) -> str:
    beside = getattr(middleware.component, "candidate_label", "")
    return f"{middleware.name} ({beside})" if beside else middleware.name


def _needs(stage: StagePlan) -> str:
    needs = stage.resources
    parts = _divided(stage)
    parts += [f"{needs.num_cpus:g} CPUs"] if needs.num_cpus else []
    parts += [f"{needs.num_gpus:g} GPUs"] if needs.num_gpus else []
    parts += [f"{amount:g} {name}" for name, amount in needs.custom.items()]
    parts += [f"{name}={value}" for name, value in needs.labels.items()]
    return f" (needs {', '.join(parts)})" if parts else ""


def _divided(stage: StagePlan) -> list[str]:
    """Return into what a stage is divided, if it is."""
    counts = {"replicas": stage.replicas, "partitions": stage.partitions}
    divided = [f"{count} {kind}" for kind, count in counts.items() if count > 1]
    return [f"{stage.replica_range} replicas"] if stage.replica_range is not None else divided


def _state(stage: StagePlan) -> str:
    """Say why all lanes share a stage, and by what it is divided."""
    kept = ", ".join(f"{name} by {key}" for name, key in state_keys(stage).items())
    if stage.shared:
        those = "one" if stage.partitions == 1 else "the same"
        return f" ({those} for all lanes: keeps state, {kept})"
    return f" (keeps state, {kept})" if stage.partitions > 1 else ""


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
