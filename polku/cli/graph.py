"""Draw a plan, for people and as Mermaid."""

from __future__ import annotations

from polku.plan import Plan, StagePlan


def outline(plan: Plan) -> list[str]:
    """Return a line for each part of a plan, in the order in which events pass."""
    sources = ", ".join(source for source, _ in plan.ingestors)
    default = f"; others: {type(plan.default_ingestor).__name__}" if plan.default_ingestor is not None else ""
    lines = [f"ingest    protobuf events; raw bytes of {sources}{default}"]
    lines += [f"source    {source.name}: {source.source!r}" for source in plan.sources]
    lines += [f"{stage.name:<9} {_middleware(stage)}{_needs(stage)}" for stage in plan.stages]
    buffer = plan.buffer
    lines.append(f"buffer    {buffer.kind}, {buffer.capacity} events an emitter, when full: {buffer.overflow}")
    lines += [f"emitter   {outlet.name}: {outlet.emitter!r}" for outlet in plan.outlets]
    return lines


def mermaid(plan: Plan) -> str:
    """Return the plan as a Mermaid flowchart."""
    lines = ["flowchart LR", '  clients(["clients"]) --> ingest["ingest"]']
    lines += [
        f'  source_{number}(["{_escape(source.name)}"]) --> ingest' for number, source in enumerate(plan.sources, 1)
    ]
    last = "ingest"
    for stage in plan.stages:
        node = stage.name.replace("-", "_")
        lines.append(f'  {last} --> {node}["{_escape(_middleware(stage))}"]')
        last = node
    buffer = plan.buffer
    lines.append(f'  {last} --> buffer[("{buffer.kind} {buffer.capacity}<br/>{buffer.overflow}")]')
    lines += [
        f'  buffer --> emitter_{number}["{_escape(outlet.name)}"]' for number, outlet in enumerate(plan.outlets, 1)
    ]
    return "\n".join(lines)


def _middleware(stage: StagePlan) -> str:
    return " → ".join(middleware.name for middleware in stage.middleware)


def _needs(stage: StagePlan) -> str:
    needs = stage.resources
    parts = [f"{needs.num_cpus:g} CPUs"] if needs.num_cpus else []
    parts += [f"{needs.num_gpus:g} GPUs"] if needs.num_gpus else []
    parts += [f"{amount:g} {name}" for name, amount in needs.custom.items()]
    return f" (needs {', '.join(parts)})" if parts else ""


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
