"""Let go wrong in a running case what its plan of faults says, and change it as that says."""

from __future__ import annotations

import asyncio
from typing import Any

from polku.errors import ChangeError
from polku.testing.simulation import letters
from polku.testing.simulation.cluster import Cluster, Network
from polku.testing.simulation.disk import Disk
from polku.testing.simulation.inline import InlineSystem
from polku.testing.simulation.world import World
from tests.simulation import build, journals

BOUND = 400.0
"""Virtual seconds after the last fault in which everything must be answered, delivered and healthy."""


async def inject(world: World, system: InlineSystem | Cluster, case: dict[str, Any]) -> None:
    changing: list[asyncio.Task[None]] = []
    for fault in sorted(case["faults"], key=lambda fault: fault["at"]):
        await asyncio.sleep(max(0.0, fault["at"] - world.now))
        world.ledger.count(f"fault {fault['what']}")
        match fault["what"]:
            case "clock":
                world.set_clock(fault["seconds"])
            case "reload" if isinstance(system, InlineSystem):
                await _reload(world, system, case, fault)
            case "resize" if isinstance(system, Cluster):
                changing.append(world.loop.spawn(system.process, _resize(system, fault)))
            case "divide" if isinstance(system, Cluster):
                changing.append(world.loop.spawn(system.process, _divide(system, fault)))
            case "lanes" if isinstance(system, Cluster):
                changing.append(world.loop.spawn(system.process, system.scale(fault["lanes"])))
            case "node" if isinstance(system, Cluster):
                changing.append(world.loop.spawn(system.process, system.change(fault)))
            case "replay":
                if case["letters"] == "disk":
                    world.ledger.count("letters replayed", letters.ask_replay(f"{build.path()}.dead"))
            case "kill" if fault.get("on") == "replay":
                world.fuse_of_replay = fault["fuse"]
                world.loop.call_later(fault["seconds"], setattr, world, "fuse_of_replay", 0)
            case "kill" if isinstance(system, Cluster):
                names = [name for name in system.parts if fault["part"] in name]
                names = names or [name for name in system.parts if name.endswith("/lane")]  # a chained one has it all
                if names:
                    process = system.parts[names[fault["which"] % len(names)]].process
                    process.fuse = fault["fuse"]
            case "cut" | "crash" | "repair" | "takeover":
                if journals.current is not None:
                    journals.current.inject(system, fault)
            case "net" if isinstance(system, Cluster):
                system.network = Network(fault["lost"], fault["doubled"], fault["slow"])
                world.loop.call_later(fault["seconds"], setattr, system, "network", Network())
            case "disk":
                disk = world.disks.setdefault(build.path(), Disk())
                disk.mode = fault["mode"]
                world.loop.call_later(fault["seconds"], setattr, disk, "mode", "ok")
    await asyncio.gather(*changing)


async def _resize(system: Cluster, change: dict[str, Any]) -> None:
    """Give a step another number of replicas; where one that comes does not start, or one that goes has no end, not."""
    for position, stage in enumerate(system.plan.stages):
        if stage.replicated and build.number_of(stage.middleware[0].name) == change["step"]:
            done = await system.resizing.resize(position, change["replicas"])
            system.world.ledger.count("resizes" if done else "resizes taken back")


async def _divide(system: Cluster, change: dict[str, Any]) -> None:
    """Give a step another number of partitions; where not all come to rest, or a part dies meanwhile, not."""
    for position, stage in enumerate(system.plan.stages):
        if stage.partitions > 1 and build.number_of(stage.middleware[0].name) == change["step"]:
            done = await system.resizing.divide(position, change["partitions"])
            system.world.ledger.count("divisions" if done else "divisions taken back")


async def _reload(world: World, system: InlineSystem, case: dict[str, Any], change: dict[str, Any]) -> None:
    """Run a change of the case's plan from now on; a refusal is no fault, if it says that nothing was changed."""
    try:
        changed = await system.update(build.build_plan(world, case, change), 5.0)
    except ChangeError as error:
        world.trace(f"reload: {error}")
        world.ledger.count("reloads refused")
        _note_refusal(world, error)
    else:
        world.trace(f"reload: {changed.difference}")
        world.ledger.count("reloads")
        pause = max([changed.stages_seconds, *changed.emitters_seconds.values()])
        world.ledger.count("reloads that kept batches for more than 200 ms", pause > 0.2)


async def change_back(world: World, system: InlineSystem, case: dict[str, Any]) -> None:
    """Run the case's own plan again, once what keeps it from that is over."""
    limit = world.now + BOUND
    while True:
        try:
            await system.update(build.build_plan(world, case), 5.0)
            return
        except ChangeError as error:
            if world.now > limit:
                world.ledger.fault(f"reload: the first plan is refused for {BOUND:.0f} s: {error}")
                return
        await asyncio.sleep(2.0)


def _note_refusal(world: World, error: ChangeError) -> None:
    known = ("never starts", "still delivers", "cannot be written", "come to rest", "had no answer", "cannot be found",
             "while it was written", "disk", "journal")  # fmt: skip
    for reason in error.reasons:
        if not any(text in reason for text in known):
            world.ledger.fault(f"reload: refused for no good reason: {reason}")
