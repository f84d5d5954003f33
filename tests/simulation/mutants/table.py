"""How many seeds, and how much time, the simulation needs for each old fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

from tests.simulation.build import grows, spreads
from tests.simulation.generate import generate
from tests.simulation.mutants import journals, lanes, nodes  # noqa: F401  (they register themselves)
from tests.simulation.mutants.faults import MUTANTS
from tests.simulation.run import run

_FITS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "23": lambda case: any(fault["what"] == "resize" for fault in case["faults"]),
    "25": lambda case: not case["faults"] and len(case["emitters"]) > 1,
}
"""Cases that could find a mutant, where these are few."""


class Found(NamedTuple):
    """What the search for a mutant came to: seeds tried, seconds of CPU, and what broke (nothing: not found)."""

    seeds: int
    seconds: float
    fault: str


def find(number: str, *, seconds: float = 60.0, first: int = 1) -> Found:
    """Try seeds with a mutant until a promise is broken: for those of lanes and nodes, such where they come and go."""
    began = time.process_time()
    tried = 0
    features = frozenset({"model"}) if number.startswith("j") else frozenset()
    limit = 300_000 if number[0] in "ln" else 60_000  # a lane that leaves is looked at again and again
    cases = ({**generate(seed, features), "limit": limit} for seed in count(first))
    fits = {"l": grows, "n": spreads}.get(number[0]) or _FITS.get(number)
    wanted = (case for case in cases if fits is None or fits(case))
    while time.process_time() < began + seconds:
        case = next(wanted)
        tried += 1
        with MUTANTS[number][1]():
            result = run(case)
        took = time.process_time() - began
        if result.faults and not run(case).faults:
            return Found(tried, took, result.faults[0])
    return Found(tried, time.process_time() - began, "")


def find_all(numbers: Sequence[str], *, seconds: float) -> int:
    """Print the table; return 1 where a fault was not found in time."""
    missed = 0
    print("| fault | seeds | seconds of CPU | what breaks |\n|---|---|---|---|", flush=True)
    for number in numbers or MUTANTS:
        found = find(number, seconds=seconds)
        missed += not found.fault
        what = found.fault[:110].replace("|", "/") or "**not found**"
        print(f"| {number}: {MUTANTS[number][0]} | {found.seeds} | {found.seconds:.1f} | {what} |", flush=True)
    return 1 if missed else 0
