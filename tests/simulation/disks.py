"""Give some cases with a durable buffer the real journal, and a disk that loses what was not synced."""

from __future__ import annotations

from random import Random
from typing import Any

SHARE = 0.2


def real_journal(case: dict[str, Any], *, always: bool = False) -> None:
    """Change a case: the choices have a seed of their own, so that those of other cases stay what they are.

    With `always` each case that can have the real journal has it.
    """
    random = Random(f"{case['seed']} disk")
    buffer = case["buffer"]
    if always and case["poison"] is None:
        buffer["kind"] = "durable"
        case["letters"] = random.choice(["memory", "disk"])
    if buffer["kind"] != "durable" or not (always or random.random() < SHARE):
        return
    buffer["journal"] = "real"
    faults = case["faults"]
    is_calm = not faults and not any(emitter["phases"] for emitter in case["emitters"])
    if case["shape"] != "actors" or (is_calm and not always):
        return
    on_disk = case["letters"] == "disk"
    # What a node loses with itself is closed by the simulated machine, whose calls of the disk are those of no process.
    has_nodes = any(fault["what"] == "node" for fault in faults)
    for _ in range(random.choice([0, 1, 1, 2])):
        faults.append(
            {
                "at": random.choice([0.0, 0.003, 0.01, 0.03, 0.1, 0.5, 3.0, *([10.0, 40.0] if on_disk else [])]),
                "what": random.choice(["cut", "cut", "cut", "cut" if has_nodes else "crash"]),
                "ops": random.choice([0, 1, 2, 3, 5, 8, 13, 40]) * (not has_nodes),
                "node": random.random() < (0.7 if on_disk else 0.3),
                "seconds": 4.0,
            }
        )
    if random.random() < 0.15:
        faults.append({"at": random.choice([0.01, 0.1, 1.0]), "what": "repair", "seconds": 1.0})
    if random.random() < 0.25:
        seconds = random.choice([0.05, 1.0, 20.0])
        faults.append({"at": random.choice([0.003, 0.01, 0.03, 0.3]), "what": "takeover", "seconds": seconds})
