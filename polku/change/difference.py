"""The difference of two plans, part by part, and why one cannot take the other's place while the pipeline runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from polku.buffer.strategy import BufferStrategy, Kind
from polku.change.content import content_digest
from polku.change.contents import Contents, StepName, names_by_stage, options_of
from polku.change.numbers import changed_ranges
from polku.limits import Limits
from polku.middleware.partition_key import divides_state
from polku.plan import AckLevel, OutletPlan, Plan, StagePlan

PORT_LIMITS = (
    "message_bytes", "open_bytes", "streams", "address_streams", "calls", "connections", "grpc_connections",
    "address_connections", "read_seconds", "connection_age_seconds",
)  # fmt: skip
"""Limits for which the ports are opened again."""


class PartVerdict(StrEnum):
    """Say what becomes of a part."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"


class PartChange(Struct, frozen=True):
    """One part: its kind and name (`middleware`, `Deduplicator`), what becomes of it, and what there is to know."""

    kind: str
    name: str
    verdict: PartVerdict
    note: str = ""

    def __str__(self) -> str:
        text = f"{self.verdict:<9} {self.kind} {self.name}".rstrip()
        return f"{text}: {self.note}" if self.note else text


class Difference(Struct, frozen=True):
    """Every part of two plans, from front to back, and why the one cannot take the other's place (`refusals`)."""

    parts: tuple[PartChange, ...]
    refusals: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether every part is what it was."""
        return not self.refusals and all(part.verdict is PartVerdict.UNCHANGED for part in self.parts)

    def named(self, kind: str, *verdicts: PartVerdict) -> list[str]:
        """Return the names of the parts of one kind of which one of these is said."""
        return [part.name for part in self.parts if part.kind == kind and part.verdict in verdicts]

    def lines(self) -> Iterator[str]:
        """Yield a line for each part that does not stay, one for those that do, and one for each refusal."""
        for part in self.parts:
            if part.verdict is not PartVerdict.UNCHANGED:
                yield str(part)
        same = sum(part.verdict is PartVerdict.UNCHANGED for part in self.parts)
        if same:
            yield f"unchanged {same} {'part' if same == 1 else 'parts'}"
        for refusal in self.refusals:
            yield f"refused   {refusal}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def difference(old: Contents, new: Contents) -> Difference:
    """Compare a plan that runs with one that is to take its place."""
    parts = [
        *_ingestors(old, new),
        *_by_digest("source", old.sources, new.sources),
        *_limits(old.plan.limits, new.plan.limits),
        *_addresses(old.plan, new.plan),
        *_ports(old.plan, new.plan),
        *_lanes(old.plan, new.plan),
        *_steps(old, new),
        *_buffer(old.plan, new.plan),
        *_emitters(old, new),
    ]
    return Difference(tuple(parts), tuple(_refusals(old.plan, new.plan)))


def _ingestors(old: Contents, new: Contents) -> Iterator[PartChange]:
    yield from _by_digest("ingestor", old.ingestors, new.ingestors)
    before = {} if old.default_ingestor is None else {"": old.default_ingestor}
    after = {} if new.default_ingestor is None else {"": new.default_ingestor}
    yield from _by_digest("default ingestor", before, after)


def _by_digest(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[PartChange]:
    for name, digest in new.items():
        if name not in old:
            yield PartChange(kind, name, PartVerdict.NEW)
        else:
            yield PartChange(kind, name, PartVerdict.UNCHANGED if old[name] == digest else PartVerdict.CHANGED)
    for name in old:
        if name not in new:
            yield PartChange(kind, name, PartVerdict.GONE)


def _limits(old: Limits, new: Limits) -> Iterator[PartChange]:
    note = _changes(_values(old), _values(new))
    yield PartChange("limits", "", PartVerdict.CHANGED if note else PartVerdict.UNCHANGED, note)


def _values(limits: Limits) -> dict[str, object]:
    return {each.name: getattr(limits, each.name) for each in fields(limits) if each.init}


def _addresses(old: Plan, new: Plan) -> Iterator[PartChange]:
    before, after = (plan.listen._asdict() for plan in (old, new))
    for name, address in after.items():
        was = before[name]
        if address == was:
            continue
        verdict = PartVerdict.NEW if was is None else PartVerdict.GONE if address is None else PartVerdict.CHANGED
        note = f"{address} (was {was})" if verdict is PartVerdict.CHANGED else address or was or ""
        yield PartChange("address", name, verdict, note)


def _lanes(old: Plan, new: Plan) -> Iterator[PartChange]:
    if new.lanes != old.lanes and not (old.per_node or new.per_node):
        gone = "; those that are gone deliver what waits for them, and end" if new.lanes < old.lanes else ""
        yield PartChange("lanes", "", PartVerdict.CHANGED, f"{new.lanes} (was {old.lanes}){gone}")
    for kind, name, note in changed_ranges(old, new):
        yield PartChange(kind, name, PartVerdict.CHANGED, note)


def only_lanes(found: Difference) -> bool:
    """Return whether nothing but the number of lanes, or what is said about numbers, differs."""
    others = tuple(part for part in found.parts if part.kind not in ("lanes", "range", "scaling"))
    return replace(found, parts=others).is_empty


def _ports(old: Plan, new: Plan) -> Iterator[PartChange]:
    """Say why ports are opened again: by names alone, as paths and names of principals are nobody's business."""
    before, after = ({"limits": _port_values(plan.limits), **_security(plan)} for plan in (old, new))
    names = [name for name in after if before[name] != after[name]]
    if names:
        yield PartChange("ports", "", PartVerdict.CHANGED, f"opened again: {', '.join(names)}")


def _port_values(limits: Limits) -> list[object]:
    return [getattr(limits, name) for name in PORT_LIMITS]


def _security(plan: Plan) -> dict[str, object]:
    return {
        "tls": plan.tls,
        "tokens": plan.tokens,
        "stamp": plan.stamp,
        "origins": plan.origins,
        "require": plan.require_security,
    }


def _steps(old: Contents, new: Contents) -> Iterator[PartChange]:
    components = dict(old.components())
    divided = divided_otherwise(old.plan, new.plan)
    for name, component in new.components():
        if name not in components:
            yield PartChange("middleware", str(name), PartVerdict.NEW)
        elif old.steps[name] == new.steps[name]:
            yield PartChange("middleware", str(name), PartVerdict.UNCHANGED, _moved(old.plan, new.plan, name))
        else:
            state = _state_note(components[name], component, divided=name in divided)
            notes = (_candidate_note(components[name], component), state)
            yield PartChange("middleware", str(name), PartVerdict.CHANGED, "; ".join(filter(None, notes)))
    for name, component in components.items():
        if name not in new.steps:
            note = "lets go what it holds" if getattr(component, "holds", False) else ""
            yield PartChange("middleware", str(name), PartVerdict.GONE, note)
    if list(old.steps) != list(new.steps) and set(old.steps) == set(new.steps):
        yield PartChange("middleware", "order", PartVerdict.CHANGED, ", ".join(map(str, new.steps)))
    yield from _stages(old.plan, new.plan)


def _stages(old: Plan, new: Plan) -> Iterator[PartChange]:
    before, after = (_divided(plan) for plan in (old, new))
    if list(before) != list(after) or any(before[name] != after[name] for name in before):
        yield PartChange("stages", "", PartVerdict.CHANGED, f"{len(before)} before, {len(after)} now")
    parts = [_partitions(plan) for plan in (old, new)]
    for name in parts[1]:
        if name in divided_otherwise(old, new):
            yield PartChange("partitions", str(name), PartVerdict.CHANGED, f"{parts[1][name]} (was {parts[0][name]})")


def divided_otherwise(old: Plan, new: Plan) -> frozenset[StepName]:
    """Return the middleware that is divided into another number of partitions."""
    before, after = _partitions(old), _partitions(new)
    return frozenset(name for name in before.keys() & after.keys() if before[name] != after[name])


def _partitions(plan: Plan) -> dict[StepName, int]:
    names = names_by_stage(plan)
    return {name: stage.partitions for stage in plan.stages for name in names[stage.name]}


def _divided(plan: Plan) -> dict[str, object]:
    return {stage.name: (stage.isolated, stage.replicas, stage.resources) for stage in plan.stages}


def _moved(old: Plan, new: Plan, name: StepName) -> str:
    """Return a note about middleware that runs in another stage now; empty where it does not."""
    before, after = (_stage_of(plan, name) for plan in (old, new))
    return "" if before == after else f"from {before} to {after}"


def _stage_of(plan: Plan, name: StepName) -> str:
    return next(stage for stage, names in names_by_stage(plan).items() if name in names)


def _candidate_note(old: object, new: object) -> str:
    """Return what new middleware stands next to it now, or does not any more; empty where that is as it was."""
    before, after = (str(getattr(each, "candidate_label", "")) for each in (old, new))
    return "" if before == after else after or f"without {before}"


def _state_note(old: object, new: object, *, divided: bool) -> str:
    """Return what becomes of the state of middleware that changes; empty where it has none."""
    if not getattr(old, "state_key", None):
        return ""
    if keeps_state(old, new, divided=divided):
        return "keeps its state"
    held = "lets go what it holds, and " if getattr(old, "holds", False) else ""
    return f"{held}starts empty"


def keeps_state(old: object, new: object, *, divided: bool = False) -> bool:
    """Return whether the state of middleware can move to what takes its place: both say that they know its form.

    Where it is `divided` between other partitions than before, both must know how, too.
    """
    form = getattr(old, "state_form", None)
    if form is None or form != getattr(new, "state_form", None):
        return False
    return not divided or (divides_state(old) and divides_state(new))


def _buffer(old: Plan, new: Plan) -> Iterator[PartChange]:
    is_tiered = new.buffer.kind is old.buffer.kind is Kind.TIERED
    note = _changes(*(_buffer_options(plan.buffer, is_tiered=is_tiered) for plan in (old, new)))
    yield PartChange("buffer", "", PartVerdict.CHANGED if note else PartVerdict.UNCHANGED, note)


def _buffer_options(strategy: BufferStrategy, *, is_tiered: bool) -> dict[str, object]:
    """Return what was chosen, by the names of the arguments that chose it."""
    tiers: dict[str, object] = {"primary": strategy.primary, "secondary": strategy.secondary}
    sizes = tiers if is_tiered else {"capacity": strategy.capacity}
    return {**sizes, "max_bytes": strategy.max_bytes, "overflow": strategy.overflow}


def _emitters(old: Contents, new: Contents) -> Iterator[PartChange]:
    before = {outlet.name: outlet for outlet in old.plan.outlets}
    renamed = renames(old.plan, new.plan)
    for outlet in new.plan.outlets:
        former = renamed.get(outlet.name, outlet.name)
        if former not in before:
            yield PartChange("emitter", outlet.name, PartVerdict.NEW)
            continue
        notes = [f"was {former}"] if former != outlet.name else []
        if old.emitters[former] != new.emitters[outlet.name]:
            notes.append("another emitter")
        if options := _changes(options_of(before[former]), options_of(outlet)):
            notes.append(options)
        yield PartChange(
            "emitter", outlet.name, PartVerdict.CHANGED if notes else PartVerdict.UNCHANGED, "; ".join(notes)
        )
    kept = {outlet.name for outlet in new.plan.outlets} | set(renamed.values())
    for name in before:
        if name not in kept:
            yield PartChange("emitter", name, PartVerdict.GONE, "delivers what waits for it, and ends")


def renames(old: Plan, new: Plan) -> dict[str, str]:
    """Return the former names of emitters that run under them now, by their new names."""
    before, after = ({outlet.name for outlet in plan.outlets} for plan in (old, new))
    return {
        outlet.name: outlet.formerly
        for outlet in new.outlets
        if outlet.formerly in before and outlet.formerly not in after and outlet.name not in before
    }


def _refusals(old: Plan, new: Plan) -> Iterator[str]:
    for what, before, after in _fixed(old, new):
        if before != after:
            yield f"{what} cannot be changed while the pipeline runs ({before} before, {after} now); restart it"
    if new.plugins is not None and {source for source, _ in old.ingestors} != {source for source, _ in new.ingestors}:
        yield "sources get or lose ingestors, and plugins may have registered for them (allow_plugins); restart it"
    yield from _merged(old.outlets, new.outlets)
    if new.ack is AckLevel.DELIVERED:
        yield from _required(old, new)


def _fixed(old: Plan, new: Plan) -> Iterator[tuple[str, object, object]]:
    yield "the name", repr(old.name), repr(new.name)
    yield "the kind of buffer", old.buffer.kind, new.buffer.kind
    yield "the path of the journal", old.buffer.path or "none", new.buffer.path or "none"
    yield "the level of acknowledgement", old.ack, new.ack
    yield "the place of the dead letters", _letters_said(old), _letters_said(new)
    if old.per_node or new.per_node:
        yield "the number of lanes", _lanes_said(old), _lanes_said(new)
    yield "whether lanes are spread over the nodes", old.spread, new.spread
    yield "whether lanes are chained", old.chained, new.chained
    yield "what is redacted", old.redaction, new.redaction
    if old.traces is not new.traces and content_digest(old.traces) != content_digest(new.traces):
        yield "what traces say", "as it was", "something else"
    if old.plugins != new.plugins:
        yield "what allow_plugins says", "as it was", "something else"


def _letters_said(plan: Plan) -> object:
    letters = plan.dead_letters
    if letters is None:
        return "none"
    return f"{letters.path}, {letters.max_events} events, {letters.max_bytes} bytes at most"


def _lanes_said(plan: Plan) -> object:
    return "one on each node" if plan.per_node else plan.lanes


def _merged(old: Sequence[OutletPlan], new: Sequence[OutletPlan]) -> Iterator[str]:
    """Name emitters that are to take over what waits for another one beside their own."""
    before = {outlet.name for outlet in old}
    for outlet in new:
        if outlet.formerly in before and outlet.name in before:
            yield (
                f"emitter {outlet.name!r} cannot take over what waits for {outlet.formerly!r} while both run "
                "(formerly=); restart it"
            )


def _required(old: Plan, new: Plan) -> Iterator[str]:
    """Name emitters for whose delivery senders wait already, or do not."""
    before = {outlet.name: outlet.required for outlet in old.outlets}
    renamed = renames(old, new)
    for outlet in new.outlets:
        former = renamed.get(outlet.name, outlet.name)
        if before.get(former, outlet.required) != outlet.required:
            yield f"emitter {outlet.name!r}: senders wait for deliveries, so required= cannot be changed; restart it"


def _changes(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={new[name]} (was {old[name]})" for name in new if old.get(name) != new[name])


def same_stages(old: Sequence[StagePlan], new: Sequence[StagePlan]) -> bool:
    """Return whether middleware is divided into as many stages, of the same names."""
    return [stage.name for stage in old] == [stage.name for stage in new]
