"""Make the objects of a case: the plan, the scripts of clients and destinations."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any

from polku import (
    Aggregator,
    Batched,
    Batching,
    BufferStrategy,
    Deduplicator,
    Enricher,
    Event,
    Filter,
    Hub,
    Limits,
    RateLimiter,
    Resilience,
    Retry,
    Router,
    Sampler,
    StdoutEmitter,
    Throttle,
    Transform,
    Validator,
)
from polku.emit import console
from polku.plan import MiddlewarePlan, Plan, SourcePlan, StagePlan, fuse
from polku.testing.simulation.clients import ClientScript, Message
from polku.testing.simulation.destination import Phase, Script, SimulatedConsole, SimulatedEmitter
from polku.testing.simulation.ledger import Destination
from polku.testing.simulation.lineage import mark, tokens_of
from polku.testing.simulation.source import RecordLog, SimulatedSource
from polku.testing.simulation.world import World
from tests.simulation.code import Code


def path() -> str:
    """Return where this process has what its cases store."""
    return f"/dev/shm/polku-simulated-{os.getpid()}/journal.db"


def build_plan(world: World, case: dict[str, Any], change: dict[str, Any] | None = None) -> Plan:
    """Return the plan of a case, as its beginning has it or a `change` of it."""
    change = change or {}
    version = change.get("version", 0)
    code = Code(world, case.get("poison"))
    buffer = {**case["buffer"], **({"capacity": change["capacity"]} if change.get("capacity") else {})}
    hub = Hub(runtime="inline").ack(case["ack"]).buffer_strategy(_buffer(buffer))
    hub.default_ingestor(code.ingest_async if (case["seed"] + version) % 2 else code.ingest)
    if case["letters"] == "disk":
        hub.dead_letters(f"{path()}.dead")
    steps = [(number, step) for number, step in enumerate(case["steps"]) if number not in change.get("without", ())]
    if change.get("extra"):
        extra = {"kind": change["extra"], "async": bool(version % 2), "ttl": 300.0, "max_ids": 10_000}
        steps.insert(version % (len(steps) + 1), (90, extra))
    for number, step in steps:
        component = _component(code, number, step)
        is_changed = number in change.get("steps", ())
        # Where lists of new events come of lists, nobody knows how those of the two sides stood to each other.
        is_tried = is_changed and version % 2 == 0 and step["kind"] not in ("split", "object")
        is_tried = is_tried and may_be_tried(component)
        isolate = step.get("isolate", False) != (number in change.get("isolate", ()))
        new = _version(component, version) if is_changed else component
        hub.middleware(component if is_tried else new, name=f"{step['kind']}-{number}", isolate=isolate)
        if is_tried:  # new code has half of the events before it has all
            hub.middleware(_version(_component(code, number, step), version), canary=0.5, key="id")
    emitters = [emitter for emitter in case["emitters"] if emitter["name"] not in change.get("gone", ())]
    if change.get("new"):
        emitters.append({**case["emitters"][0], "name": change["new"], "kind": "plain", "phases": [], "required": True,
                         "refuse_every": 0})  # fmt: skip
    for emitter in emitters:
        changed = version if emitter["name"] in change.get("exchange", ()) else 0
        config = _emitter(world, case, emitter, -1 if change.get("fails") == emitter["name"] else changed)
        hub.emitter(config, overflow=emitter["overflow"], required=emitter["required"])
    if case["limits"] or version:
        hub.limits(Limits(**case["limits"], streams=1000 + version))
    plan = hub.plan("inline")
    stages = plan.stages
    if case["shape"] == "actors":
        apart = [
            StagePlan("", (m,), isolated=s.isolated, replicas=_replicas(case, m), partitions=_partitions(case, m))
            for s in stages
            for m in s.middleware
        ]
        stages = fuse(apart, side_by_side=case["lanes"] > 1 or grows(case) or spreads(case))
    letters = plan.dead_letters if case["letters"] == "disk" else None
    if pulled := case.get("pulled"):
        options = {"at_once": pulled["at_once"], "raw": pulled["raw"], "failures": pulled["failures"]}
        source = SimulatedSource(world, RecordLog(world, pulled["name"]), **options)
        plan = replace(plan, sources=(SourcePlan(pulled["name"], source),))
        _expect_letters(world, pulled)
    plan = replace(plan, dead_letters=letters, stages=stages, lanes=case["lanes"], chained=case.get("chained", False))
    if spreads(case):
        return replace(plan, lanes=1, per_node=True)
    return replace(plan, had_lanes=grows(case))


def grows(case: dict[str, Any]) -> bool:
    """Return whether lanes come and go."""
    return any(fault["what"] == "lanes" for fault in case["faults"])


def spreads(case: dict[str, Any]) -> bool:
    """Return whether each node has a lane, and nodes come and go."""
    return any(fault["what"] == "node" for fault in case["faults"])


def may_be_tried(component: object) -> bool:
    """Return whether another version may have a share of the events: those that remember or hold some may not."""
    return not getattr(component, "state_key", None) and not getattr(component, "holds", False)


def _replicas(case: dict[str, Any], middleware: MiddlewarePlan) -> int:
    if getattr(middleware.component, "state_key", None):
        return 1
    return int(case["steps"][number_of(middleware.name)].get("replicas", 1))


def _partitions(case: dict[str, Any], middleware: MiddlewarePlan) -> int:
    return int(case["steps"][number_of(middleware.name)].get("partitions", 1))


def clients(case: dict[str, Any]) -> list[ClientScript]:
    """Return the scripts of the clients."""
    return [
        ClientScript(
            client["name"],
            client["way"],
            [
                Message([_event(client["name"], e) for e in m["events"]], m["pause"], m["raw"], m["leaves"])
                for m in client["messages"]
            ],
            client["attempts"],
        )
        for client in case["clients"]
    ]


def _expect_letters(world: World, pulled: dict[str, Any]) -> None:
    """Name what the gateway refuses of records: times outside of the years 1 to 9999, ids that appear twice in one."""
    for record in pulled["records"]:
        ids: set[str] = set()
        for event in record["events"]:
            if event.get("stamp") or (event["id"] and event["id"] in ids):
                world.ledger.bad[f"{pulled['name']}.{event['n']}"] = "refused"
            ids.add(event["id"])


async def feed(log: RecordLog, pulled: dict[str, Any]) -> None:
    """Let the records of a case come into being."""
    for record in pulled["records"]:
        await asyncio.sleep(record["pause"])
        log.append([_event(pulled["name"], event) for event in record["events"]])


def number_of(name: str) -> int:
    """Return the number of a step, by its name."""
    return int(name.rpartition("-")[2])


def _buffer(buffer: dict[str, Any]) -> BufferStrategy:
    options = {"overflow": buffer["overflow"], "max_bytes": buffer["max_bytes"]}
    match buffer["kind"]:
        case "tiered":
            return BufferStrategy.tiered(buffer["capacity"], buffer["secondary"], **options)
        case "durable":
            return BufferStrategy.durable(path(), capacity=buffer["capacity"], **options)
    return BufferStrategy.ring(buffer["capacity"], **options)


def _version(component: Any, version: int) -> object:
    """Return a component that is another one, and does nearly the same."""
    if isinstance(component, Deduplicator):
        return replace(component, ttl=component.ttl + version / 1000)
    if isinstance(component, (Throttle, RateLimiter)):
        return replace(component, burst=(component.burst or max(component.rate, 1.0)) + version / 1000)
    if isinstance(component, Aggregator):
        return replace(component, within=component.within + version / 1000)
    if hasattr(component, "timeout"):
        if not is_dataclass(component):
            component.timeout += version / 1000
            return component
        assert not isinstance(component, type)
        changed: Any = component
        return replace(changed, timeout=changed.timeout + version / 1000)
    return component


def _emitter(world: World, case: dict[str, Any], emitter: dict[str, Any], version: int = 0) -> object:
    name = emitter["name"]
    known = name in world.ledger.destinations
    drops = emitter["overflow"] or (case["buffer"]["overflow"] if emitter["required"] else "drop_oldest")
    record = Destination(
        emitter["name"],
        required=emitter["required"],
        drops="" if drops == "block" else drops,
        attempts=None if emitter["recovers"] else 5,
        is_ordered=emitter["concurrency"] == 1 and emitter.get("kind") != "collect",
    )
    record = world.ledger.destinations.setdefault(name, record)
    script = Script(
        latency=emitter["latency"],
        per_event=emitter["per_event"],
        phases=tuple(Phase(*phase) for phase in emitter["phases"]),
        refuse_every=emitter["refuse_every"],
        concurrency=emitter["concurrency"],
        recovers=emitter["recovers"],
        kind=emitter.get("kind", "plain"),
    )
    if script.kind == "stdout":
        if not known:
            world.patch(console, "_current", [SimulatedConsole(world, record, script)])
        record.attempts = None
        return StdoutEmitter(name=record.name)
    config = SimulatedEmitter(world, record, script, version=version)
    if emitter["timeout"]:
        retry = Retry() if emitter["recovers"] else Retry(attempts=5, limit=1.0)
        return Resilience(config, retry=retry, timeout=emitter["timeout"])
    return config


def _event(client: str, spec: dict[str, Any]) -> Event:
    payload = {"": b"", "{}": b"{}", "NaN": b"NaN", "big": b"x" * 3000, "binary": bytes(range(256))}
    event = Event(
        id=spec["id"],
        source=client,
        event_type=spec.get("type", "a.x"),
        timestamp_unix_ns=spec.get("time", 1_700_000_000_000_000_000 + spec["n"]),
        payload=payload[spec["payload"]] if "payload" in spec else f'{{"n":{spec["n"]}}}'.encode(),
        route_to=spec.get("to", ()),
    )
    if "stamp" in spec:
        event.container.start_time.seconds = spec["stamp"]
    if "nan" in spec:
        event.network.latency_ms = float("nan")
    if "flaw" in spec:
        event.metadata["flaw"] = spec["flaw"]
    return mark(event, [f"{client}.{spec['n']}"])


def _component(code: Code, number: int, step: dict[str, Any]) -> object:
    is_async = step["async"]
    match step["kind"]:
        case "filter":
            return Filter(code.each(number, code.keeps(step["every"]), is_async=is_async), timeout=2.0)
        case "filter_batch":
            keeps = code.keeps(step["every"])
            return Filter(code.whole(number, lambda events: list(map(keeps, events)), is_async=is_async), batch=True,
                          timeout=2.0)  # fmt: skip
        case "touch":
            return Transform(code.each(number, code.touch, is_async=is_async), timeout=2.0)
        case "touch_batch":
            return Transform(code.whole(number, lambda events: events, is_async=is_async), batch=True, timeout=2.0)
        case "replace":
            return Transform(code.each(number, code.replace(step["ids"]), is_async=is_async), timeout=2.0)
        case "split":
            work = code.split(step["count"], step["ids"])
            return Transform(code.whole(number, work, is_async=is_async), batch=True, timeout=2.0)
        case "object":
            return _Object(code, number, step)
        case "model":
            batching = Batching(max_events=step["size"], max_wait=step["within"], in_flight=step["count"], timeout=2.0)
            return Batched(code.whole(number, lambda events: list(map(code.touch, events)), is_async=True), batching)
        case "router":
            router = Router()
            for prefix, name in step["rules"]:
                router = router.type_prefix(prefix, to=name)
            return router.default(step["default"]) if step["default"] else router
        case "enricher":
            look_up = code.each(number, lambda event: {"table": "yes"}, is_async=is_async)
            return Enricher(look_up, timeout=2.0, concurrency=3)
        case "validator":
            return Validator(code.each(number, _check(code, step), is_async=is_async), on_invalid=step["on_invalid"],
                             timeout=2.0)  # fmt: skip
        case "sampler":
            return Sampler(step["rate"], seed=number, key=step["key"])
        case "dice":
            return Filter(code.each(number, code.by_chance, is_async=is_async), timeout=2.0)
        case "dice_router":
            return Transform(code.each(number, code.route_by_chance(step["names"]), is_async=is_async), timeout=2.0)
        case "throttle":
            return Throttle(step["rate"])
        case "limiter":
            return RateLimiter(step["rate"])
        case "dedup":
            return Deduplicator(ttl=step["ttl"], max_ids=step["max_ids"])
    return Aggregator(step["size"], step["within"], strategy=step["strategy"], max_held=step["max_held"])


def _check(code: Code, step: dict[str, Any]) -> Callable[[Event], bool]:
    def check(event: Event) -> bool:
        valid = code.keeps(step["every"])(event)
        if not valid and step["on_invalid"] == "dead_letter":
            for token in tokens_of(event):
                code.ledger.bad[token] = "invalid"
        return valid

    return check


class _Object:
    """A user's middleware object, with hooks."""

    timeout = 2.0

    def __init__(self, code: Code, number: int, step: dict[str, Any]) -> None:
        self.name = f"object-{number}"
        if step.get("shared"):  # so that lanes share its stage
            self.state_key = "everything"
        if step.get("partitions"):
            self.state_key = "source"
        work = {
            "touch": lambda events: [self._touched(code, event) for event in events],
            "split": code.split(2, step.get("ids", "same")),
            "drop": lambda events: [event for event in events if code.keeps(3)(event)],
            "reverse": lambda events: list(events),
        }[step["work"]]
        self._call = code.whole(number, work, is_async=step["async"])

    def process(self, events: list[Event]) -> Any:
        return self._call(events)

    def _touched(self, code: Code, event: Event) -> Event:
        code.touch(event)
        return event

    async def start(self) -> None:
        pass

    def close(self) -> None:
        pass
