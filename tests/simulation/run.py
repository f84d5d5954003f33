"""Run one case in a world of its own, and return what broke."""

from __future__ import annotations

import asyncio
import shutil
import time as real_time
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polku.buffer.statistics import OutletStatistics
from polku.plan import Plan
from polku.runtime.lane import LaneStatistics
from polku.testing.simulation import letters, probes
from polku.testing.simulation.clients import Client, ClientScript, Message
from polku.testing.simulation.cluster import Cluster
from polku.testing.simulation.inline import InlineSystem
from polku.testing.simulation.judge import Judge, Promises, check_counters
from polku.testing.simulation.loop import EndlessError, Process, StuckError
from polku.testing.simulation.part import SimulatedPart
from polku.testing.simulation.source import SimulatedSource
from polku.testing.simulation.world import World
from tests.simulation import build, journals
from tests.simulation.injecting import BOUND, change_back, inject

_clock = real_time.perf_counter


@dataclass
class Result:
    """What became of a case."""

    case: dict[str, Any]
    faults: list[str]
    seconds: float
    virtual: float
    steps: int
    counts: dict[str, int] = field(default_factory=dict)


def run(case: dict[str, Any], *, trace: bool = False) -> Result:
    """Run a case."""
    began = _clock()
    if build.grows(case) or build.spreads(case):
        from tests.simulation import nodes  # noqa: F401  (not in the world: Ray looks at its clock)
    world = World(case["seed"], trace=trace, limit=case.get("limit", 600_000))
    faults: list[str] = []
    if case["letters"] == "disk":
        letters.begin(f"{build.path()}.dead")
    with world, journals.installed(world, case):
        probes.install(world)
        try:
            faults += world.run(_main(world, case))
        except (StuckError, EndlessError) as error:
            faults.append(f"stuck: {error}")
            faults += world.ledger.faults
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            faults.append(f"raised: {type(error).__name__}: {error!s:.200} ({last.name}, line {last.lineno})")
            faults += world.ledger.faults
        for name, escaped in world.loop.escaped:
            faults.append(f"escaped: {type(escaped).__name__} ended the process {name}")
        faults += [f"complaint: {text}" for text in world.loop.complaints]
        virtual, steps = world.now, world.loop.steps
    shutil.rmtree(Path(build.path()).parent, ignore_errors=True)
    return Result(case, list(dict.fromkeys(faults)), _clock() - began, virtual, steps, dict(world.ledger.counts))


async def _main(world: World, case: dict[str, Any]) -> list[str]:
    plan = build.build_plan(world, case)
    system = _system(world, plan, case)
    promises = _promises(case)
    judge = Judge(world.ledger, promises)
    world.ledger.is_timed = not case["faults"]
    if promises.delivered:
        world.on_accepted.append(judge.accepted)
        world.on_committed.append(judge.committed)
    await system.start()
    healed = _healed(case)

    def deadline() -> float:
        return max(world.now, healed) + BOUND

    work = [world.loop.spawn(Process("faults"), inject(world, system, case))]
    watch = world.loop.spawn(Process("health"), _watch_health(world, system, case))
    if isinstance(system, Cluster):
        system.deaths.append(lambda part: _excuse(world, plan, part))
    logs = [source.source.log for source in plan.sources if isinstance(source.source, SimulatedSource)]
    work += [world.loop.spawn(Process(log.name), build.feed(log, case["pulled"])) for log in logs]
    doors = system.ways_in()
    for number, script in enumerate(build.clients(case)):
        client = Client(world, doors[number % len(doors)], script, deadline=deadline)
        work.append(world.loop.spawn(Process(script.name), client.run()))
    await asyncio.gather(*work)
    if world.loop.escaped:
        return world.ledger.faults
    await asyncio.sleep(max(0.0, healed - world.now))
    for part in getattr(system, "parts", {}).values():
        part.process.fuse = 0
    if isinstance(system, InlineSystem) and world.ledger.counts.get("reloads"):
        await change_back(world, system, case)
    last = Client(world, doors[-1], _last_words(case), deadline=deadline)
    await last.run()
    limit = world.now + BOUND
    rules = {case["buffer"]["overflow"], *(emitter["overflow"] for emitter in case["emitters"])}
    for log in logs if "drop_newest" not in rules else ():  # what is larger than a share is tried again for ever
        try:
            async with asyncio.timeout_at(world.loop.time() + limit - world.now):
                await log.done()
        except TimeoutError:
            open_ = len(log.records) - log.committed
            world.ledger.fault(f"uncommitted: {open_} records of {log.name} {BOUND:.0f} s after the last fault")
    faults = await _settle(world, system, case)
    watch.cancel()
    faults += judge.faults()
    return faults + _waited_for_others(world, case)


def _system(world: World, plan: Plan, case: dict[str, Any]) -> InlineSystem | Cluster:
    if case["shape"] == "inline":
        return InlineSystem(world, plan)
    if build.grows(case):
        from tests.simulation.lanes import GrowingCluster  # with Ray, which takes long to import

        return GrowingCluster(world, plan)
    if build.spreads(case):
        from tests.simulation.nodes import SpreadCluster

        return SpreadCluster(world, plan, case["lanes"])
    return Cluster(world, plan)


async def _settle(world: World, system: InlineSystem | Cluster, case: dict[str, Any]) -> list[str]:
    """Wait until all is delivered and well, stop, and check what is left."""
    faults = []
    limit = world.now + BOUND
    rules = [emitter["overflow"] or case["buffer"]["overflow"] for emitter in case["emitters"]]
    is_fed = bool(case.get("pulled")) and "drop_newest" in rules  # what is larger than a share is tried again for ever
    if not await _deliver(world, system, limit) and not is_fed:
        lags = {n: o for lane in system.statistics() for n, o in lane.buffer.outlets.items()}
        faults.append(f"undrained: after {BOUND:.0f} s without faults: {lags}")
    health = system.health()
    while not health.healthy and world.now < limit:
        await asyncio.sleep(2.0)
        health = system.health()
    if not health.healthy and not faults:
        # An emitter whose latest call failed, and that has had no other since, cannot know better.
        failing = {f"emitter:{d.name}" for d in world.ledger.destinations.values() if set(d.latest.values()) - {"ok"}}
        ill = {
            n: text
            for n, (healthy, text) in health.components.items()
            if not healthy and n.rpartition("/")[2] not in failing
        }
        if ill:
            faults.append(f"health: unhealthy {BOUND:.0f} s after the last fault: {ill}")
    if case["letters"] == "disk" and not faults:
        await _end_replays(world, system, limit)
        faults += letters.check_stored(world.ledger, f"{build.path()}.dead")
        if "drop_newest" not in rules:  # see known.py
            faults += await _replay(world, system, limit)
    faults += await system.settled(limit) if not faults else []
    report = await system.stop(BOUND)
    for name, emitter in report.emitters.items():
        world.ledger.destinations[name].dropped += emitter.dropped
    if not report.complete and not faults:
        faults.append(f"drain: incomplete: {report}")
    if not faults:
        faults += check_counters(world.ledger, system.statistics(), report.emitters)
        for intake in system.intakes():
            if intake._counters.open_bytes:
                faults.append(f"counters: {intake._counters.open_bytes} bytes are open at the end")
    await asyncio.sleep(0.1)
    if case["shape"] == "inline":  # actors end with their processes
        faults += _leftovers(world)
    return faults


async def _deliver(world: World, system: InlineSystem | Cluster, limit: float) -> bool:
    """Return whether all that the buffers hold is delivered in time."""
    pause = 0.1
    while system.lag():
        if world.now > limit:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, 5.0)
    return True


async def _end_replays(world: World, system: InlineSystem | Cluster, limit: float) -> None:
    """Wait until the pipeline has looked for letters to replay, and each of them is delivered or a letter again."""
    await asyncio.sleep(9.0)
    await _deliver(world, system, limit)
    await asyncio.sleep(2.0)


async def _replay(world: World, system: InlineSystem | Cluster, limit: float) -> list[str]:
    """Ask for all letters again: those whose destination takes them now come through, no other holds them up."""
    path = f"{build.path()}.dead"
    asked = letters.ask_replay(path)
    world.ledger.count("letters replayed", asked)
    while asked and any(letter.replay for letter in letters.stored(path)):
        if world.now > limit + BOUND:
            left = [(x.emitter, x.event_id, x.code) for x in letters.stored(path) if x.replay]
            return [f"replay: {len(left)} letters are still to be replayed: {left[:4]}"]
        await asyncio.sleep(2.0)
    await _end_replays(world, system, limit + BOUND)
    return list(letters.check_stored(world.ledger, path))


def _leftovers(world: World) -> list[str]:
    me = asyncio.current_task()
    left = [task for task in world.loop.tasks if not task.done() and task is not me and not task.process.dead]
    names = sorted({getattr(task.get_coro(), "__qualname__", type(task.get_coro()).__name__) for task in left})
    ours = ("_watch_health", "inject", "Cluster._send_again")
    names = [name for name in names if not name.startswith(ours)]
    faults = [f"leftover: tasks that have not ended: {names}"] if names else []
    for task in world.loop.tasks:
        if task.done() and not task.cancelled() and task._log_traceback and not task.process.dead:
            task._log_traceback = False
            name = getattr(task.get_coro(), "__qualname__", "")
            faults.append(f"unheard: {name} failed, and nobody noticed: {task._exception!r}")
    return faults


def _excuse(world: World, plan: Plan, part: SimulatedPart) -> None:
    """What was acknowledged and lay in memory dies with its process; at the level `delivered` it was delivered."""
    if "stage" in part.name:
        world.ledger.overtake()
    if not part.name.endswith(("/buffer", "/lane")):
        return
    if not plan.buffer.path:
        world.ledger.forget(part.name)
        tokens = [entry.token for entry in world.ledger.inputs.values()]
        world.ledger.excused_optional.update(tokens)
        if plan.ack != "delivered":
            world.ledger.excused.update(tokens)
    if part.running is not None:
        for name, outlet in part.running.buffer.statistics().outlets.items():
            world.ledger.destinations[name].dropped += outlet.dropped


async def _watch_health(world: World, system: InlineSystem | Cluster, case: dict[str, Any]) -> None:
    """See that health says so when nothing has moved for a long time."""
    slack = max([step["within"] for step in case["steps"] if step["kind"] == "aggregator"], default=0.0)

    def outlets(lane: LaneStatistics) -> Collection[OutletStatistics]:
        return lane.buffer.outlets.values()

    marker: object = None
    since = world.now
    while True:
        await asyncio.sleep(10.0)
        lanes = system.statistics()
        health = system.health()
        open_ = sum(lane.intake.open for lane in lanes)
        lag = sum(outlet.lag for lane in lanes for outlet in lane.buffer.outlets.values())
        if isinstance(system, Cluster) and not all(part.is_up for part in system.parts.values()):
            marker = None
            continue
        now = [
            (lane.intake.accepted, lane.intake.refused, [(o.confirmed, o.dead, o.dropped) for o in outlets(lane)])
            for lane in lanes
        ]
        if now != marker or not (open_ or lag):
            marker, since = now, world.now
        elif world.now - since > 80.0 + slack and health.healthy:
            world.ledger.fault(
                f"health: well although nothing moved for {world.now - since:.0f} s: {open_} messages open, lag {lag}"
            )
            since = world.now


def _waited_for_others(world: World, case: dict[str, Any]) -> list[str]:
    """Check that what a destination takes at once does not wait for another one, whose share of the buffer has room."""
    ledger, faults = world.ledger, []
    entered = sum(ledger.entered.values())
    has_room = case["buffer"]["capacity"] > entered and case["buffer"]["max_bytes"] > 10_000 * entered
    if case["faults"] or ledger.counts.get("code block") or not has_room:
        return []
    others = [emitter for emitter in case["emitters"] if emitter["phases"]]
    for emitter in case["emitters"]:
        if emitter["phases"] or emitter["refuse_every"] or emitter["kind"] != "plain" or not others:
            continue
        bound = 5.0 + len(ledger.inputs) * (emitter["latency"] + emitter["per_event"])
        for token, at in ledger.destinations[emitter["name"]].arrived_at.items():
            ledger.count("waits compared")
            if (waited := at - ledger.taken_at.get(token, at)) > bound:
                faults.append(f"waits: {token} came to {emitter['name']} {waited:.0f} s after the buffer had room")
    return faults[:3]


def _promises(case: dict[str, Any]) -> Promises:
    kinds = {step["kind"] for step in case["steps"]}
    broken = any(fault["what"] in ("kill", "net", "cut", "crash", "takeover", "node") for fault in case["faults"])
    rules = {case["buffer"]["overflow"], *(emitter["overflow"] for emitter in case["emitters"])}
    # By their ids: events of one client are in one partition of a throttle.
    divided = any(step["kind"] == "dedup" and step.get("partitions", 1) > 1 for step in case["steps"])
    disk = any(fault["what"] in ("disk", "repair") for fault in case["faults"])
    return Promises(
        delivered=case["ack"] == "delivered",
        breaks=broken,
        full=disk or "drop_newest" in rules or bool(case["limits"]),
        vague=bool(kinds & {"split", "object"}),
        ordered="aggregator" not in kinds and not divided,
    )


def _healed(case: dict[str, Any]) -> float:
    ends = [phase[0] for emitter in case["emitters"] for phase in emitter["phases"]]
    ends += [fault["at"] + fault.get("seconds", 0.0) for fault in case["faults"] if fault["what"] != "clock"]
    return max(ends, default=0.0)


def _last_words(case: dict[str, Any]) -> ClientScript:
    """Make a client that sends two good events after everything: they must get through."""
    events = [build._event("last", {"n": number, "id": f"last-{number}"}) for number in (1, 2)]
    return ClientScript("last", "batch", [Message([event], 0.1) for event in events], 6)
