"""Make cases out of seeds. A case is plain data (JSON), so that it can be shrunk, printed and kept."""

from __future__ import annotations

from random import Random

from polku.testing.simulation.destination import MODES
from tests.simulation.code import DEEDS_ASYNC, DEEDS_SYNC
from tests.simulation.disks import real_journal
from tests.simulation.generate_faults import (
    Case,
    between_commits,
    between_file_and_buffer,
    cannot_start,
    divisions,
    faults_of,
    growths,
    nodes,
    reloads,
    resizes,
)

STEPS = (
    "filter", "filter_batch", "touch", "touch_batch", "replace", "split", "object", "router", "enricher", "validator",
    "sampler", "throttle", "limiter", "dedup", "aggregator",
)  # fmt: skip


def generate(seed: int, known: frozenset[str] = frozenset()) -> Case:
    """Return the case of a seed, without what is `known` to fail."""
    case = _generate(seed)
    real_journal(case, always="model" in known)
    for emitter in case["emitters"]:
        emitter["phases"] = [phase for phase in emitter["phases"] if phase[1] not in known]
        if "per_event" in known:
            emitter["per_event"] = 0.0
    if case["letters"] in known:
        case["letters"] = "memory"
    for step in case["steps"]:
        if step.get("ids") in known:
            step["ids"] = "same"
    senders = [(client["name"], client["messages"]) for client in case["clients"]]
    if case["pulled"]:
        senders.append((case["pulled"]["name"], case["pulled"]["records"]))
    for name, messages in senders:
        for message in messages:
            for event in message["events"]:
                if event.get("flaw", ":").split(":")[1] in known:
                    del event["flaw"]
                for key in known & event.keys():
                    del event[key]
                if "shared-ids" in known and event["id"].startswith("id-"):
                    event["id"] = f"{name}-{event['n']}"
    return case


MODELS = 0.3
"""The share of those steps that could be one."""


PARTITIONS = 0.4
"""The share of steps with partitions, of those that can have some."""


def _generate(seed: int) -> Case:
    random = Random(seed)
    shape = random.choice(["inline", "actors"])
    calm = random.random() < 0.2  # nothing fails: then nothing may be refused either
    buffer = _buffer(random)
    ack = random.choice(["accepted", "accepted", "delivered", "durable" if buffer["kind"] == "durable" else "accepted"])
    emitters = [_emitter(random, number, calm) for number in range(1, random.choice([2, 2, 2, 3, 3, 4]))]
    names = [emitter["name"] for emitter in emitters]
    steps = [_step(random, names) for _ in range(random.choice([0, 1, 1, 1, 2, 2, 3]))]
    if any(step["kind"] == "aggregator" for step in steps) and buffer["capacity"] < 5:
        buffer["capacity"] = 5
    clients = _clients(random, steps, names, calm)
    lanes = random.choice([1, 1, 2]) if shape == "actors" else 1
    poison = None
    if shape == "actors" and not calm and random.random() < 0.12:
        poison = _poison(random, steps, clients, lanes)
    faults = [] if calm else faults_of(random, buffer, shape)
    if shape == "actors" and not calm and random.random() < 0.06:
        cannot_start(random, emitters, faults)
    if shape == "actors" and not calm and random.random() < 0.06:
        between_commits(random, buffer, emitters, clients, faults)
        ack = random.choice(["delivered", ack])
    if shape == "actors" and random.random() < 0.015:
        steps, clients, poison = _held_for_long(random)
        emitters = [{**emitters[0], "kind": "plain", "latency": 0.0, "per_event": 0.0, "refuse_every": 0}]
    _make_models(Random(f"{seed} models"), steps)
    if shape == "actors":
        _divide(Random(f"{seed} partitions"), steps)
    other = Random(f"{seed} made otherwise")  # so that the cases of all other seeds are what they were
    if shape == "actors" and not calm and other.random() < 0.06:
        ack = other.choice(["delivered", "delivered", ack])
        poison = None
        steps = _made_otherwise(other, names, emitters, clients, faults)
    if shape == "inline":
        faults += reloads(Random(f"{seed} reload"), steps, emitters, buffer)
    letters = "memory" if random.random() < 0.75 else "disk"
    if shape == "actors" and not calm and random.random() < 0.05:
        between_file_and_buffer(random, buffer, emitters, faults)
        letters = "disk"
    if letters == "memory":
        faults = [fault for fault in faults if fault["what"] != "replay"]  # it would only make the case longer
    chained = shape == "actors" and poison is None and random.random() < 0.25  # who dies together, is poisoned together
    if shape == "actors" and not calm and poison is None:
        faults += resizes(Random(f"{seed} resize"), steps)
        if not chained:  # a chained lane with parts apart is not changed
            faults += divisions(Random(f"{seed} divide"), steps)
    if shape == "actors" and poison is None:
        grown = growths(Random(f"{seed} lanes"), steps, clients, calm=calm)
        faults += grown
        lanes = Random(f"{seed} first lanes").choice([1, 2, 2, 3]) if grown else lanes
        if grown and any(step["kind"] == "aggregator" for step in steps):
            buffer["capacity"] = max(buffer["capacity"], 5)
        first = Random(f"{seed} first nodes").choice([1, 2, 3])
        spread = [] if grown else nodes(Random(f"{seed} nodes"), first, buffer, steps, clients, calm=calm)
        if spread:
            lanes = first
            faults = [*spread, *(fault for fault in faults if fault["what"] not in ("resize", "divide"))]
    pulled = _pulled(random, steps, names, calm) if random.random() < 0.15 else None
    return {
        "seed": seed,
        "shape": shape,
        "pulled": pulled,
        "chained": chained,
        "lanes": lanes,
        "ack": ack,
        "buffer": buffer,
        "letters": letters,
        "steps": steps,
        "emitters": emitters,
        "clients": clients,
        "poison": poison,
        "limits": {"open_bytes": 600} if random.random() < 0.05 else {},
        "faults": faults,
    }


def _buffer(random: Random) -> Case:
    kind = random.choice(["ring", "ring", "tiered", "durable"])
    capacity = random.choice([1, 2, 4, 8, 20, 1000])
    overflow = random.choice(["block", "block", "block", "drop_oldest", "drop_newest"])
    max_bytes = random.choice([10_000_000, 10_000_000, 10_000_000, 2_000])
    return {"kind": kind, "capacity": capacity, "secondary": random.choice([0, 1, 10]), "overflow": overflow,
            "max_bytes": max_bytes}  # fmt: skip


def _emitter(random: Random, number: int, calm: bool) -> Case:
    required = random.random() < 0.8
    rules = [None, None, "block", "drop_oldest", "drop_newest"] if required else [None, "drop_oldest", "drop_newest"]
    phases = []
    until = 0.0
    kind = random.choice(["plain", "plain", "plain", "parts", "collect", "stdout" if number == 1 else "plain"])
    if not calm:
        for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
            until += random.choice([0.05, 0.5, 3.0, 20.0, 70.0])
            phases.append([round(until, 3), random.choice([*MODES, "start"])])
    return {
        "name": f"out{number}",
        "required": required,
        "overflow": random.choice(rules),
        "latency": random.choice([0.0, 0.001, 0.001, 0.02, 0.3]),
        "per_event": random.choice([0.0, 0.0, 0.0, 0.05, 1.5 if kind == "parts" else 0.0]),
        "phases": phases,
        "refuse_every": 0 if kind == "stdout" else random.choice([0, 0, 0, 3, 7]),
        "concurrency": random.choice([1, 1, 1, 3]),
        "recovers": random.random() < 0.7,
        "timeout": random.choice([None, None, 5.0]),
        "kind": kind,
    }


def _make_models(random: Random, steps: list[Case]) -> None:
    """Have some steps be models that are called with events of many batches."""
    for step in steps:
        if step["kind"] in ("touch", "touch_batch", "enricher") and random.random() < MODELS:
            step |= {"kind": "model", "size": random.choice([1, 2, 5, 64]), "within": random.choice([0.0, 0.02, 1.0]),
                     "count": random.choice([1, 2, 4]), "isolate": True}  # fmt: skip
            if random.random() < 0.4:
                step["replicas"] = random.choice([2, 3])


def _divide(random: Random, steps: list[Case]) -> None:
    """Have some steps that keep state by a key be divided by it."""
    for step in steps:
        if step["kind"] in ("dedup", "throttle", "aggregator", "object") and random.random() < PARTITIONS:
            step["partitions"] = random.choice([2, 2, 3, 5])


def _step(random: Random, names: list[str]) -> Case:
    kind = random.choice(STEPS)
    step: Case = {"kind": kind, "async": random.random() < 0.5, "isolate": random.random() < 0.4}
    if random.random() < 0.1:
        step["replicas"] = 2
    match kind:
        case "filter" | "filter_batch":
            step["every"] = random.choice([2, 3, 1000])
        case "replace" | "split":
            step["ids"] = random.choice(["fresh", "derived", "derived", "shared", "same"])
            step["count"] = random.choice([1, 2, 3])
        case "object":
            step["work"] = random.choice(["touch", "split", "drop", "reverse"])
            step["ids"] = random.choice(["fresh", "derived", "shared", "same"])
        case "router":
            step["rules"] = [[random.choice(["a", "b"]), random.choice(names)] for _ in range(random.choice([1, 2]))]
            step["default"] = random.choice([None, random.choice(names)])
        case "validator":
            step["on_invalid"] = random.choice(["drop", "tag", "dead_letter"])
            step["every"] = random.choice([3, 5, 1000])
        case "sampler":
            step["rate"] = random.choice([0.3, 0.9])
            step["key"] = random.choice([None, "id", "source"])
        case "throttle" | "limiter":
            step["rate"] = random.choice([5.0, 100.0])
        case "dedup":
            step["ttl"] = random.choice([2.0, 300.0])
            step["max_ids"] = random.choice([3, 10_000])
        case "aggregator":
            step["size"] = random.choice([2, 3, 10])
            step["within"] = random.choice([0.05, 1.0, 5.0])
            step["strategy"] = random.choice(["json_array", "concat", "first", "last"])
            step["max_held"] = random.choice([5, 10_000])
    return step


def _clients(random: Random, steps: list[Case], names: list[str], calm: bool) -> list[Case]:
    shares_ids = random.random() < 0.35
    clients = []
    for number in range(1, random.choice([2, 2, 3, 4])):
        name = f"c{number}"
        messages = []
        count = 0
        way = random.choice(["batch", "stream", "stream", "event", "together"])
        for _ in range(random.choice([1, 1, 2, 3, 5, 12])):
            size = 1 if way in ("event", "together") and random.random() < 0.7 else random.choice([1, 1, 2, 3, 9])
            events = []
            for _ in range(size):
                count += 1
                events.append(_event(random, name, count, shares_ids, steps, names, calm))
            messages.append({
                "events": events,
                "pause": random.choice([0.0, 0.0, 0.001, 0.05, 2.0]),
                "raw": random.random() < 0.1,
                "leaves": 0.0 if calm or random.random() < 0.93 else random.choice([0.0005, 0.003, 0.3]),
            })  # fmt: skip
        clients.append({"name": name, "way": way, "messages": messages, "attempts": random.choice([1, 3, 6])})
    return clients


def _pulled(random: Random, steps: list[Case], names: list[str], calm: bool) -> Case:
    """Make records for a source, and how it reads them."""
    raw = random.random() < 0.4
    records, number = [], 0
    for _ in range(random.choice([1, 3, 8, 15])):
        events = []
        for _ in range(random.choice([1, 2]) if raw else 1):
            number += 1
            events.append(_event(random, "p1", number, random.random() < 0.2, steps, names, calm))
        records.append({"events": events, "pause": random.choice([0.0, 0.0, 0.001, 0.05, 1.0])})
    failures = [] if calm or random.random() < 0.6 else [random.choice([1, 2, 5])]
    return {"name": "p1", "records": records, "raw": raw, "at_once": random.choice([1, 3, 9]), "failures": failures}


def _made_otherwise(
    random: Random, names: list[str], emitters: list[Case], clients: list[Case], faults: list[Case]
) -> list[Case]:
    """Let a step die that makes something else of what it is sent again, while the answers of some events differ."""
    for emitter in emitters:
        emitter.update(phases=[], latency=random.choice([0.02, 0.3]))
        emitter["refuse_every"] = 0 if emitter["kind"] == "stdout" else random.choice([0, 3, 3])
    events = [{"n": 700 + number, "id": random.choice(["", "shared-1", "shared-2"]) or f"other-{number}"}
              for number in range(random.choice([4, 9]))]  # fmt: skip
    message = {"events": events, "pause": 0.0, "raw": False, "leaves": 0.0}
    clients[0]["messages"] = [message, *clients[0]["messages"][:2]]
    steps = [_step(random, names) for _ in range(random.choice([0, 0, 1]))]
    steps = [step for step in steps if step["kind"] != "aggregator"]
    kind = random.choice(["sampler", "sampler", "dedup", "limiter", "throttle", "dice", "dice_router"])
    step: Case = {"kind": kind, "async": random.random() < 0.5, "isolate": True, "rate": 0.5, "key": None}
    step |= {"rate": 5.0} if kind in ("limiter", "throttle") else {}
    step |= {"ttl": 300.0, "max_ids": 10_000, "names": names}
    steps.insert(random.randrange(len(steps) + 1), step)
    for _ in range(random.choice([1, 1, 2])):
        faults.append({"at": random.choice([0.003, 0.01, 0.03, 0.1, 0.3, 0.5]), "what": "kill", "part": "stage",
                       "which": random.randrange(4), "fuse": random.choice([1, 1, 2, 5, 10])})  # fmt: skip
    return steps


def _held_for_long(random: Random) -> tuple[list[Case], list[Case], None]:
    """Hold one event back while many others pass it."""
    steps = [{"kind": "aggregator", "async": False, "isolate": True, "size": 2, "within": 60.0, "strategy": "first",
              "max_held": 10_000}]  # fmt: skip
    clients = []
    for name, count in (("c1", 1), ("c2", random.choice([120, 180]))):
        messages = []
        for number in range(count):
            events = [{"n": 2 * number + place, "id": f"{name}-{2 * number + place}"} for place in (1, 2)]
            messages.append({"events": events[:1] if name == "c1" else events, "pause": 0.0, "raw": False,
                             "leaves": 0.0})  # fmt: skip
        clients.append({"name": name, "way": "event", "messages": messages, "attempts": 1})
    return steps, clients, None


def _poison(random: Random, steps: list[Case], clients: list[Case], lanes: int) -> Case:
    """Let one event kill the process of a step, each time that it comes to it: also after it was held there."""
    if lanes > 1 and random.random() < 0.5:
        steps.append({"kind": "object", "work": "touch", "async": True, "isolate": False, "shared": True})
        return _poisoned(random, steps, clients)
    if random.random() < 0.6:
        steps.append({"kind": "aggregator", "async": False, "isolate": False, "size": random.choice([2, 3]),
                      "within": random.choice([0.05, 1.0]), "strategy": "concat", "max_held": 10_000})  # fmt: skip
    steps.append({"kind": "touch", "async": True, "isolate": False})
    return _poisoned(random, steps, clients)


def _poisoned(random: Random, steps: list[Case], clients: list[Case]) -> Case:
    client = random.choice(clients)
    event = random.choice(random.choice(client["messages"])["events"])
    return {"step": len(steps) - 1, "token": f"{client['name']}.{event['n']}"}


def _event(
    random: Random, client: str, number: int, shares_ids: bool, steps: list[Case], names: list[str], calm: bool
) -> Case:
    event: Case = {"n": number, "id": f"{client}-{number}"}
    if shares_ids and random.random() < 0.7:
        event["id"] = f"id-{random.randrange(6)}"
    elif random.random() < 0.03:
        event["id"] = ""
    if random.random() < 0.3:
        event["type"] = random.choice(["a.x", "b.y", ""])
    if random.random() < 0.08:
        event["to"] = random.choice([[random.choice(names)], ["nowhere"], [random.choice(names), "nowhere"]])
    if random.random() < 0.15:
        event["payload"] = random.choice(["", "{}", "NaN", "big", "binary"])
    if random.random() < 0.05:
        event["stamp"] = random.choice([-62135596801, 253402300800, 9223372036854775807, 0])
    elif random.random() < 0.03:
        event["nan"] = True
    if random.random() < 0.05:
        event["time"] = random.choice([-1, 2**63 - 1, -(2**63), 1])
    if not calm and steps and random.random() < 0.04:
        step = random.randrange(len(steps))
        deeds = DEEDS_ASYNC if steps[step].get("async") else DEEDS_SYNC
        event["flaw"] = f"{step}:{random.choice(deeds)}"
    elif not calm and random.random() < 0.01:
        event["flaw"] = f"-1:{random.choice(DEEDS_SYNC)}"
    return event
