"""Simulate a user's own pipeline: minutes of its life in a moment, with destinations that fail and clients that leave.

```python
from polku.testing import simulate


def test_my_pipeline_loses_nothing():
    simulate(hub, seconds=600).check()
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from polku.emit.adapt import emitter_name
from polku.event.v1.event_pb2 import Event
from polku.plan import AckLevel, OutletPlan, Plan, StagePlan
from polku.testing.simulation import probes
from polku.testing.simulation.clients import Client, ClientScript, Message
from polku.testing.simulation.destination import Phase, Script, SimulatedEmitter
from polku.testing.simulation.inline import InlineSystem
from polku.testing.simulation.judge import Judge, Promises
from polku.testing.simulation.ledger import Destination
from polku.testing.simulation.lineage import mark
from polku.testing.simulation.loop import EndlessError, Process, StuckError
from polku.testing.simulation.world import World
from polku.testing.trial.parts import without_files

if TYPE_CHECKING:
    from polku.hub import Hub

_BOUND = 600.0  # virtual seconds after the last fault in which everything must be answered and delivered
_TROUBLE = ("raise", "hang", "partial", "store-and-raise", "raise-later", "retry-after", "late")


class Simulation(NamedTuple):
    """Say what a simulated life of a pipeline came to; `broken` are promises, each in a sentence: none, if all is well.

    `virtual_seconds` is how long it seemed to those in it; `seed` makes the same one again.
    """

    seed: int
    events: int
    accepted: int
    delivered: dict[str, int]
    dead_letters: int
    virtual_seconds: float
    broken: tuple[str, ...]

    def check(self) -> None:
        """Raise `AssertionError` where a promise was broken."""
        if self.broken:
            raise AssertionError(f"seed {self.seed}: {'; '.join(self.broken[:5])}")


def simulate(
    hub: Hub,
    *,
    seconds: float = 60.0,
    seed: int = 0,
    events: Sequence[Event] | Callable[[int], Event] | None = None,
    clients: int = 3,
    trouble: bool = True,
) -> Simulation:
    """Run a hub's pipeline for so many virtual seconds, on the inline runtime, and compare what came out with the Acks.

    Its emitters are replaced by simulated destinations of the same names, which fail for a while with `trouble`; its
    middleware and its rules are those of the hub. Events are made, or given: a list that the clients share, or a
    function of the number of an event. Middleware must keep the metadata `lineage` and `crc` of an event, or make both
    anew with `polku.testing.simulation.lineage.mark`. A durable buffer writes to a simulated disk; threads, sockets and
    clocks of user code are real: what waits for them in earnest does not belong into a simulation.
    """
    world = World(seed, limit=20_000_000)
    with world:
        probes.install(world)
        plan = _simulated(world, hub.plan("inline"), seconds if trouble else 0.0)
        faults: list[str] = []
        try:
            faults += world.run(_live(world, plan, _scripts(world.random, events, clients, seconds), seconds))
        except (StuckError, EndlessError) as error:
            faults += [f"stuck: {error}", *world.ledger.faults]
        faults += [f"escaped: {type(error).__name__} ended the process" for _, error in world.loop.escaped]
        return _result(world, seed, faults)


def _simulated(world: World, plan: Plan, seconds: float) -> Plan:
    outlets = []
    for outlet in plan.outlets:
        name = outlet.name or emitter_name(outlet.emitter)
        rule = str(outlet.overflow or plan.buffer.overflow)
        record = Destination(name, required=outlet.required, drops="" if rule == "block" else rule)
        world.ledger.destinations[name] = record
        script = Script(phases=_phases(world.random, seconds))
        outlets.append(OutletPlan(name, SimulatedEmitter(world, record, script), outlet.overflow, outlet.required))
    stages = tuple(_without_files(stage) for stage in plan.stages)
    return replace(plan, stages=stages, outlets=tuple(outlets), sources=(), plugins=None, dead_letters=None)


def _without_files(stage: StagePlan) -> StagePlan:
    kept = [replace(one, component=without_files(one.component)) for one in stage.middleware]
    return replace(stage, middleware=tuple(kept))


def _phases(random: Random, seconds: float) -> tuple[Phase, ...]:
    phases = []
    until = 0.0
    while seconds and until < seconds * 0.8:
        until += random.choice([0.5, 5.0, 30.0])
        phases.append(Phase(until, random.choice(("ok", "ok", *_TROUBLE))))
    return tuple(phases)


def _scripts(
    random: Random, events: Sequence[Event] | Callable[[int], Event] | None, clients: int, seconds: float
) -> list[ClientScript]:
    given = list(events) if isinstance(events, Sequence) else None
    total = len(given) if given is not None else max(clients, int(seconds * 4))
    scripts = []
    for client in range(1, clients + 1):
        name = f"c{client}"
        mine = range(client - 1, total, clients)
        chosen = [_event(name, number, given, events if callable(events) else None) for number in mine]
        messages, place = [], 0
        while place < len(chosen):
            size = random.choice([1, 1, 3, 10])
            part = chosen[place : place + size]
            messages.append(Message(part, pause=len(part) * seconds / max(1, len(chosen)) * random.random() * 2))
            place += size
        scripts.append(ClientScript(name, random.choice(["batch", "stream", "event"]), messages, attempts=5))
    return scripts


def _event(client: str, number: int, given: list[Event] | None, make: Callable[[int], Event] | None) -> Event:
    event = Event()
    if given is not None:
        event.CopyFrom(given[number])
    elif make is not None:
        event.CopyFrom(make(number))
    else:
        event.event_type, event.payload = "simulated", f'{{"number":{number}}}'.encode()
    event.id = event.id or f"{client}-{number}"
    event.source = event.source or client
    event.timestamp_unix_ns = event.timestamp_unix_ns or 1_700_000_000_000_000_000 + number
    return mark(event, [f"{client}.{number}"])


async def _live(world: World, plan: Plan, scripts: Sequence[ClientScript], seconds: float) -> list[str]:
    system = InlineSystem(world, plan)
    delivered = plan.ack is AckLevel.DELIVERED
    judge = Judge(world.ledger, Promises(delivered=delivered, full=True, ordered=False, vague=True))
    if delivered:
        world.on_accepted.append(judge.accepted)
    await system.start()

    def deadline() -> float:
        return max(world.now, seconds) + _BOUND

    running = [Client(world, system.doors[1], script, deadline=deadline) for script in scripts]
    await asyncio.gather(
        *(world.loop.spawn(Process(script.name), c.run()) for script, c in zip(scripts, running, strict=True))
    )
    report = await system.stop(_BOUND)
    for name, emitter in report.emitters.items():
        world.ledger.destinations[name].dropped += emitter.dropped
    faults = [] if report.complete else [f"drain: incomplete after {_BOUND:.0f} s: {report}"]
    return faults + [fault for fault in judge.faults() if not fault.startswith(("refused", "innocent"))]


def _result(world: World, seed: int, faults: Sequence[str]) -> Simulation:
    ledger = world.ledger
    return Simulation(
        seed,
        len(ledger.inputs),
        sum(entry.accepted > 0 for entry in ledger.inputs.values()),
        {name: len(destination.arrived) for name, destination in ledger.destinations.items()},
        sum(map(len, ledger.letters.values())),
        world.now,
        tuple(dict.fromkeys(faults)),
    )
