"""Describe a plan for those who look at its pipeline: each part, how it is configured, and what it feeds."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from urllib.parse import urlsplit

from msgspec import structs

from polku.buffer.strategy import Kind
from polku.checks import label
from polku.limits import Limits
from polku.monitoring.statistics import PartPlan, PlanStatistics
from polku.plan import AckLevel, MiddlewarePlan, OutletPlan, Plan, StagePlan
from polku.text import line

_TEXT = 400
# `<module.Class object at 0x7f…>` and `<function f at 0x7f…>`, also within another repr.
_ADDRESS = re.compile(r"<(?:function |bound method )?(?:[\w.]*\.)?([\w<>]+)(?: object| of [^>]*)? at 0x[0-9a-f]+>")
# `<Body.JSON: 'json'>`, a member of an enum: its value is what is written in a pipeline.
_ENUM = re.compile(r"<[A-Za-z_]\w*\.\w+: ('[^'\\]*'|-?\d+)>")
_PLACES = ("url", "endpoints", "endpoint", "address", "servers")  # attributes that say where a component connects to


def describe(plan: Plan) -> PlanStatistics:
    """Return the parts of one lane of a plan, from front to back."""
    return PlanStatistics(
        lanes=0 if plan.per_node else plan.lanes,
        ack=_ack(plan),
        journal=plan.buffer.path,
        dead_letters=plan.dead_letters.path if plan.dead_letters else "",
        parts=tuple(_parts(plan)),
    )


def shown(component: object) -> str:
    """Return how a component is shown: as it shows itself, without what differs from run to run."""
    if isinstance(component, (types.FunctionType, functools.partial)):
        return label(component)
    try:
        text = repr(component)
    except Exception as error:
        return f"{type_name(component)}(…): its repr raises {type(error).__name__}"
    return _ADDRESS.sub(r"\1", line(_ENUM.sub(r"\1", text), _TEXT))


def type_name(component: object) -> str:
    """Return the name of a component's class, or of a function; what it is wrapped in does not count."""
    inner = getattr(component, "emitter", None)
    if type(component).__name__ == "Resilience" and inner is not None:
        return type_name(inner)
    if parts := getattr(component, "middleware_parts", None):
        return type_name(parts[0])
    return str(getattr(component, "__name__", None) or type(component).__name__)


def destination(component: object) -> str:
    """Return where a component connects to, without what may be secret in it; empty where it does not say.

    Of a URL its scheme, host and port are told.
    """
    inner = getattr(component, "emitter", component)
    found = next((value for name in _PLACES if (value := getattr(inner, name, None))), "")
    places = [found] if isinstance(found, str) else found if isinstance(found, Sequence) else []
    return line(", ".join(_place(str(place)) for place in places), _TEXT)


def _place(text: str) -> str:
    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        host, port = url.hostname or "", url.port
    except ValueError:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://" * bool(url.scheme) + host + (f":{port}" if port else "")


def _parts(plan: Plan) -> Iterator[PartPlan]:
    path = ["ingest", *(stage.name for stage in plan.stages), "buffer"]
    after = dict(pairwise(path))
    for source in plan.sources:
        yield _part(f"source:{source.name}", "source", source.source, ("ingest",))
    for name, ingestor in [*plan.ingestors, *([("", plan.default_ingestor)] if plan.default_ingestor else [])]:
        yield _part(f"ingestor:{name}", "ingestor", ingestor, ("ingest",))
    yield PartPlan(name="ingest", kind="ingest", type="gateway", configuration=_limits(plan), feeds=(after["ingest"],))
    for stage in plan.stages:
        yield _stage(stage, after[stage.name])
    yield _buffer(plan)
    for outlet in plan.outlets:
        yield _emitter(outlet, plan)


def _part(name: str, kind: str, component: object, feeds: tuple[str, ...] = ()) -> PartPlan:
    return PartPlan(
        name=name,
        kind=kind,
        type=type_name(component),
        configuration=shown(component),
        feeds=feeds,
        destination=destination(component),
    )


def _ack(plan: Plan) -> str:
    """Return the level at which clients are answered: that of a durable buffer is `durable` at least."""
    durable = plan.buffer.kind is Kind.DURABLE and plan.ack is AckLevel.ACCEPTED
    return str(AckLevel.DURABLE if durable else plan.ack)


def _limits(plan: Plan) -> str:
    """Return the limits that were chosen, and when clients are answered."""
    usual = Limits()
    limits = {field.name: getattr(plan.limits, field.name) for field in fields(Limits)}
    chosen = [f"{name}={value!r}" for name, value in limits.items() if value != getattr(usual, name)]
    return "; ".join([f"clients are answered once events are {_ack(plan)}", *chosen])


def _stage(stage: StagePlan, after: str) -> PartPlan:
    return PartPlan(
        name=stage.name,
        kind="stage",
        type=" → ".join(middleware.name for middleware in stage.middleware),
        configuration="; ".join(map(_middleware, stage.middleware)),
        feeds=(after,),
        shared=stage.shared,
        replicas=stage.replicas,
        partitions=stage.partitions,
    )


def _middleware(middleware: MiddlewarePlan) -> str:
    text = shown(middleware.component)
    return text if text.startswith(middleware.name) else f"{middleware.name}: {text}"


def _buffer(plan: Plan) -> PartPlan:
    buffer = plan.buffer
    told = f"{buffer.kind}, {buffer.capacity} events and {buffer.max_bytes} bytes an emitter, when full: "
    where = f"; journal {buffer.path}" if buffer.path else ""
    return PartPlan(
        name="buffer",
        kind="buffer",
        type=str(buffer.kind),
        configuration=f"{told}{buffer.overflow}{where}",
        feeds=tuple(f"emitter:{outlet.name}" for outlet in plan.outlets),
    )


def _emitter(outlet: OutletPlan, plan: Plan) -> PartPlan:
    part = _part(f"emitter:{outlet.name}", "emitter", outlet.emitter)
    rules = [f"when its share is full: {outlet.overflow or plan.buffer.overflow}"]
    rules += ["not required"] if not outlet.required else []
    rules += ["gets every event"] if outlet.always else []
    text = f"{part.configuration}; {', '.join(rules)}"
    overflow = str(outlet.overflow or plan.buffer.overflow)
    return structs.replace(part, configuration=text, overflow=overflow)
