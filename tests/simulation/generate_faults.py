"""Make what goes wrong in a case: part of the plain data that `generate` makes."""

from __future__ import annotations

from random import Random
from typing import Any

Case = dict[str, Any]


def cannot_start(random: Random, emitters: list[Case], faults: list[Case]) -> None:
    """Let an emitter die with work in flight, and not be able to start for a while."""
    number = random.randrange(len(emitters))
    emitters[number]["phases"] = [[0.02, "hang"], [random.choice([3.0, 20.0]), "start"]]
    faults.append({"at": 0.015, "what": "kill", "part": "emitter", "which": number, "fuse": 1})


def between_commits(
    random: Random, buffer: Case, emitters: list[Case], clients: list[Case], faults: list[Case]
) -> None:
    """Let a durable buffer die while it puts a large message in, piece by piece."""
    buffer.update(kind="durable", capacity=random.choice([2, 4]), overflow=random.choice(["block", "drop_oldest"]))
    for emitter in emitters:
        emitter["latency"] = 0.02
        emitter["refuse_every"] = 0 if emitter["kind"] == "stdout" else random.choice([0, 3])
    name = clients[0]["name"]
    events = [{"n": 900 + number, "id": f"{name}-{900 + number}"} for number in range(12)]
    clients[0]["messages"].insert(0, {"events": events, "pause": 0.0, "raw": False, "leaves": 0.0})
    at = random.choice([0.005, 0.01, 0.02, 0.04, 0.08])
    faults.append({"at": at, "what": "kill", "part": "buffer", "which": 0, "fuse": random.choice([1, 3, 8])})


def reloads(random: Random, steps: list[Case], emitters: list[Case], buffer: Case) -> list[Case]:
    """Change the pipeline while it runs, some times."""
    if random.random() < 0.5:
        return []
    text = str(steps)
    free = [emitter["name"] for emitter in emitters if emitter["name"] not in text]
    names = [emitter["name"] for emitter in emitters]
    faults = []
    for number in range(1, random.choice([2, 2, 4, 7])):
        fault: Case = {"at": random.choice([0.0, 0.001, 0.004, 0.02, 0.1, 0.5, 3.0, 9.0]), "what": "reload",
                       "version": number}  # fmt: skip
        fault["steps"] = [at for at in range(len(steps)) if random.random() < 0.5]
        fault["without"] = [at for at in range(len(steps)) if random.random() < 0.15]
        fault["isolate"] = [at for at in range(len(steps)) if random.random() < 0.1]
        fault["extra"] = random.choice(["", "", "touch", "dedup"])
        fault["exchange"] = [name for name in names if random.random() < 0.4]
        fault["gone"] = random.sample(free, 1) if len(names) > 1 and free and random.random() < 0.3 else []
        fault["new"] = random.choice(["", "", f"new{random.choice([1, 2])}"])
        fault["fails"] = random.choice([*fault["exchange"], ""]) if random.random() < 0.15 else ""
        if buffer["overflow"] == "block" and random.random() < 0.2:
            fault["capacity"] = random.choice([5, 20, 1000])
        faults.append(fault)
    return faults


_ALIKE = (
    "filter",
    "filter_batch",
    "touch",
    "touch_batch",
    "replace",
    "split",
    "router",
    "enricher",
    "validator",
    "model",
)
"""Steps that may have replicas, and others while they work."""


def resizes(random: Random, steps: list[Case]) -> list[Case]:
    """Give a step replicas, and other numbers of them while it works, some times."""
    chosen = [at for at, step in enumerate(steps) if step["kind"] in _ALIKE]
    if not chosen or random.random() < 0.4:
        return []
    step = random.choice(chosen)
    steps[step]["replicas"] = random.choice([2, 2, 3])
    span = random.choice([0.02, 0.02, 0.1, 3.0])  # most clients have their answers within a tenth of a second
    return [
        {"at": span * random.random(), "what": "resize", "step": step, "replicas": random.choice([1, 1, 2, 3, 5])}
        for _ in range(random.choice([2, 4, 8]))
    ]


def divisions(random: Random, steps: list[Case]) -> list[Case]:
    """Give a step that has partitions other numbers of them, some times."""
    chosen = [at for at, step in enumerate(steps) if step.get("partitions", 1) > 1]
    if not chosen or random.random() < 0.3:
        return []
    step, span = random.choice(chosen), random.choice([0.02, 0.1, 3.0])
    return [
        {"at": span * random.random(), "what": "divide", "step": step, "partitions": random.choice([2, 3, 4, 7])}
        for _ in range(random.choice([1, 2, 4]))
    ]


def growths(random: Random, steps: list[Case], clients: list[Case], *, calm: bool) -> list[Case]:
    """Have lanes come and go, some times, while clients send, and parts die then, or the network is bad."""
    if random.random() < 0.75:
        return []
    if random.random() < 0.3:
        steps.append({"kind": "aggregator", "async": False, "isolate": False, "size": random.choice([2, 3, 10]),
                      "within": random.choice([0.05, 1.0]), "strategy": "concat", "max_held": 10_000})  # fmt: skip
    span = random.choice([0.02, 0.5, 3.0])
    grown: list[Case] = [
        {"at": span * random.random() * (number + 1), "what": "lanes", "lanes": random.choice([1, 1, 2, 3])}
        for number in range(random.choice([1, 2, 4]))
    ]
    for _ in range(0 if calm else random.choice([0, 1, 2])):
        at = random.choice(grown)["at"] + random.choice([0.001, 0.02, 1.0, 1.2, 2.0, 2.2])
        part = random.choice(["ingest", "stage", "buffer", "emitter"])
        grown.append({"at": at, "what": "kill", "part": part, "which": random.randrange(8),
                      "fuse": random.choice([1, 2, 5, 20])})  # fmt: skip
    if not calm and random.random() < 0.4:
        at = random.choice(grown)["at"] + random.choice([0.0, 0.9])
        grown.append({"at": at, "what": "net", "lost": random.choice([0.1, 0.3]), "doubled": random.choice([0.0, 0.2]),
                      "slow": random.choice([0.0, 0.05, 1.0]), "seconds": random.choice([0.5, 3.0])})  # fmt: skip
    for client in clients:
        _send_for_longer(random, client)
    return grown


def nodes(
    random: Random, first: int, buffer: Case, steps: list[Case], clients: list[Case], *, calm: bool
) -> list[Case]:
    """Have nodes come, be drained, be lost and be back, while clients send; parts of lanes die on them, too.

    One that has no journal may stay away.
    """
    if random.random() < 0.85:
        return []
    span = random.choice([0.02, 0.5, 3.0])
    found: list[Case] = []
    for number in random.sample([2, 3, 4], random.choice([1, 2, 3])):
        at = span * random.random()
        if number > first:
            found.append({"at": at, "what": "node", "node": number, "deed": "come", "deadline": 0.0, "away": 0.0})
            at += random.choice([0.5, 3.0, 6.0])
        if calm or random.random() < 0.2:
            continue
        deed = random.choice(["lose", "drain"])
        deadline = random.choice([5.5, 8.0, 15.0]) if deed == "drain" else 0.0
        away = random.choice([0.3, 3.0, 12.0, 12.0 if buffer["kind"] == "durable" else None])
        found.append({"at": at, "what": "node", "node": number, "deed": deed, "deadline": deadline, "away": away,
                      "seconds": deadline + (away or 0.0)})  # fmt: skip
    if not found:
        return []
    if random.random() < 0.4:  # lanes share it, and it waits for those that are lost
        steps.append({"kind": "aggregator", "async": False, "isolate": False, "size": random.choice([2, 3, 10]),
                      "within": random.choice([0.05, 1.0]), "strategy": "concat", "max_held": 10_000})  # fmt: skip
        buffer["capacity"] = max(buffer["capacity"], 5)
    for _ in range(0 if calm else random.choice([0, 1, 2])):
        at = random.choice(found)["at"] + random.choice([0.001, 0.02, 1.0, 2.2])
        part = random.choice(["ingest", "stage", "buffer", "emitter"])
        found.append({"at": at, "what": "kill", "part": part, "which": random.randrange(8),
                      "fuse": random.choice([1, 2, 5, 20])})  # fmt: skip
    for client in clients:
        _send_for_longer(random, client)
    return found


def _send_for_longer(random: Random, client: Case) -> None:
    """Let a client send some seconds longer: as long as a change of lanes takes."""
    number = max((event["n"] for message in client["messages"] for event in message["events"]), default=0)
    for _ in range(random.choice([2, 6, 12])):
        number += 1
        event = {"n": number, "id": f"{client['name']}-{number}"}
        pause = random.choice([0.0, 0.05, 0.3, 1.0])
        client["messages"].append({"events": [event], "pause": pause, "raw": False, "leaves": 0.0})


def between_file_and_buffer(random: Random, buffer: Case, emitters: list[Case], faults: list[Case]) -> None:
    """Let a durable buffer die when letters that it replays have just left their file."""
    buffer.update(kind="durable", overflow="block")
    emitters[0].update(kind="plain", required=True, overflow=None, phases=[[0.5, "reject"]])
    faults.append({"at": 0.6, "what": "replay"})
    faults.append({"at": 0.6, "what": "kill", "part": "buffer", "which": 0, "fuse": random.choice([1, 3, 8]),
                   "on": "replay", "seconds": 10.0})  # fmt: skip


def faults_of(random: Random, buffer: Case, shape: str) -> list[Case]:
    """Return what goes wrong, and when: deaths, a bad network, a bad disk, clocks that jump, replays."""
    faults: list[Case] = []
    if random.random() < 0.3:
        faults.append({"at": random.choice([0.5, 30.0, 100.0]), "what": "replay"})
    if random.random() < 0.2:
        for _ in range(random.choice([1, 2])):
            seconds = random.choice([-3600.0, 3600.0, -1.0, 1e7])
            faults.append({"at": random.choice([0.0, 0.01, 0.3, 5.0]), "what": "clock", "seconds": seconds})
    if buffer["kind"] == "durable" and random.random() < 0.4:
        start = random.choice([0.0, 0.005, 0.1, 2.0])
        faults.append({"at": start, "what": "disk", "mode": random.choice(["full", "slow", "broken", "hangs"]),
                       "seconds": random.choice([0.05, 1.0, 15.0])})  # fmt: skip
    if shape == "actors":
        for _ in range(random.choice([0, 1, 1, 2, 4])):
            faults.append({"at": random.choice([0.0, 0.003, 0.01, 0.03, 0.3, 2.0, 8.0]), "what": "kill",
                           "part": random.choice(["ingest", "stage", "buffer", "buffer", "emitter"]),
                           "which": random.randrange(8), "fuse": random.choice([1, 1, 2, 3, 5, 10, 20])})  # fmt: skip
        if random.random() < 0.4:
            faults.append({"at": random.choice([0.0, 0.01]), "what": "net", "lost": random.choice([0.0, 0.1, 0.3]),
                           "doubled": random.choice([0.0, 0.2]), "slow": random.choice([0.0, 0.05, 1.0]),
                           "seconds": random.choice([0.1, 3.0, 20.0])})  # fmt: skip
    return faults
