"""Make a failing case smaller for as long as it fails in the same way."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.simulation.run import run

Case = dict[str, Any]


def kind_of(faults: Sequence[str]) -> str:
    """Return the kind of the first fault: what stands before its colon."""
    return faults[0].partition(":")[0] if faults else ""


def shrink(case: Case, kind: str, *, seconds: float = 20.0) -> Case:
    """Return a smaller case that breaks the same promise, as far as one is found in time."""
    limit = time.perf_counter() + seconds
    smaller = True
    while smaller and time.perf_counter() < limit:
        smaller = False
        for candidate in _smaller(case):
            if time.perf_counter() > limit:
                break
            if _fails(candidate, kind):
                case, smaller = candidate, True
                break
    return case


def breaks(kind: str, faults: Sequence[str]) -> bool:
    """Return whether a promise of a kind is among the broken ones."""
    return any(fault.startswith(f"{kind}:") for fault in faults)


def _fails(case: Case, kind: str) -> bool:
    bounded = case if kind == "stuck" else {**case, "limit": 60_000}  # with less room others would seem to be stuck
    try:
        return breaks(kind, run(bounded).faults)
    except Exception:  # a case that cannot be built is no smaller case
        return False


def _smaller(case: Case) -> Iterator[Case]:
    yield from _without(case, "faults")
    yield from _without(case, "clients", least=1)
    for number, client in enumerate(case["clients"]):
        yield from _within(case, ["clients", number], client, "messages", least=1)
        for place, message in enumerate(client["messages"]):
            yield from _within(case, ["clients", number, "messages", place], message, "events", least=1)
    if len(case["emitters"]) > 1:
        yield from _without_emitters(case)
    yield from _without_steps(case)
    for number, emitter in enumerate(case["emitters"]):
        yield from _within(case, ["emitters", number], emitter, "phases")
        plain = {"refuse_every": 0, "per_event": 0.0, "timeout": None, "concurrency": 1, "kind": "plain",
                 "overflow": None, "required": True, "latency": 0.001}  # fmt: skip
        yield from _plainer(case, ["emitters", number], plain)
    yield from _plainer(case, [], {"poison": None, "lanes": 1, "letters": "memory", "limits": {}, "ack": "accepted"})
    yield from _plainer(
        case,
        ["buffer"],
        {"kind": "ring", "journal": "model", "capacity": 1000, "max_bytes": 10_000_000, "overflow": "block"},
    )
    for number, client in enumerate(case["clients"]):
        yield from _plainer(case, ["clients", number], {"way": "batch", "attempts": 1})
        for place, message in enumerate(client["messages"]):
            path = ["clients", number, "messages", place]
            yield from _plainer(case, path, {"pause": 0.0, "leaves": 0.0, "raw": False})
            for at, event in enumerate(message["events"]):
                for key in event.keys() - {"n", "id"}:
                    other = copy.deepcopy(case)
                    del _at(other, [*path, "events", at])[key]
                    yield other


def _without(case: Case, key: str, least: int = 0) -> Iterator[Case]:
    yield from _within(case, [], case, key, least=least)


def _within(case: Case, path: list[Any], holder: Case, key: str, least: int = 0) -> Iterator[Case]:
    """Leave out half of a list, then single items."""
    items = holder[key]
    count = len(items)
    cuts = [(0, count // 2), (count // 2, count)] if count > 3 else []
    cuts += [(place, place + 1) for place in range(count)]
    for first, last in cuts:
        if count - (last - first) >= least:
            other = copy.deepcopy(case)
            _at(other, path)[key] = copy.deepcopy(items[:first] + items[last:])
            yield other


def _without_emitters(case: Case) -> Iterator[Case]:
    for number, emitter in enumerate(case["emitters"]):
        other = copy.deepcopy(case)
        del other["emitters"][number]
        if emitter["name"] not in str([other["steps"], other["clients"]]):
            yield other


def _without_steps(case: Case) -> Iterator[Case]:
    """Leave out a step: flaws name steps by their numbers, so those behind it move."""
    for number in range(len(case["steps"])):
        other = copy.deepcopy(case)
        del other["steps"][number]
        if other.get("poison"):
            if other["poison"]["step"] == number:
                other["poison"] = None
            elif other["poison"]["step"] > number:
                other["poison"]["step"] -= 1
        for client in other["clients"]:
            for message in client["messages"]:
                for event in message["events"]:
                    if "flaw" not in event:
                        continue
                    step, _, deed = event["flaw"].partition(":")
                    if int(step) == number:
                        del event["flaw"]
                    elif int(step) > number:
                        event["flaw"] = f"{int(step) - 1}:{deed}"
        yield other


def _plainer(case: Case, path: list[Any], plain: Case) -> Iterator[Case]:
    for key, value in plain.items():
        holder = _at(case, path)
        if (
            key in holder
            and holder[key] != value
            and not (key == "ack" and case["buffer"]["kind"] != "durable" and value == "durable")
        ):
            other = copy.deepcopy(case)
            _at(other, path)[key] = value
            yield other


def _at(case: Case, path: list[Any]) -> Any:
    for key in path:
        case = case[key]
    return case
