"""How long deliveries pause when a pipeline is changed: `python -m tests.bench.pauses --changes 1000`.

A pipeline in a process of its own is changed at random by `polku reload` while two clients send: other code at each
change, and by chance another emitter, a stage more or less, ports that are opened again, another number of lanes. Each
of the two destinations notes when it was written to; the pause of a change is the longest time without a write to one
of them, from the moment at which the command was started to half a second after its end. The first row is the same
without a change, after each of the first ones: what the machine does by itself. An oracle looks for what was lost,
doubled or reordered.

At the end the pipeline is made what it was at first, and a second table says what its processes hold then and held at
first; what there is more of is a leak.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.bench import held
from tests.bench.held import Held
from tests.chaos.driver import Chaos, Outcome
from tests.chaos.files import TIMED, times

WANTED = {"inline": 0.2, "ray": 1.0}  # seconds, of the 99th percentile
QUIET, REFUSED = "(no change)", "refused"
_AFTER_SECONDS = 0.5
_BATCH_EVENTS = 10
_MOST_REFUSED = 0.05  # of the changes: a machine that is too busy refuses some
_REST_SECONDS = 60.0  # for what is gone to end
_VERSIONS = 12  # so few that some changes are of one kind alone


class Window(NamedTuple):
    """A stretch of time, and what was changed in it."""

    kind: str
    began: float
    ended: float


def kind_of(before: tuple[int, int], after: tuple[int, int]) -> str:
    """Return what differs between two versions with their numbers of lanes: see tests/chaos/pipeline.py."""
    (old, lanes_before), (new, lanes_after) = before, after
    differs = {
        "emitter": old // 2 % 2 != new // 2 % 2,
        "stages": (old % 3 == 1) != (new % 3 == 1),
        "ports": old // 3 != new // 3,
        "lanes": lanes_before != lanes_after,
    }
    return " ".join(["code", *(name for name, is_other in differs.items() if is_other)])


def pause(written: Sequence[float], window: Window) -> float:
    """Return the longest time without a write that lies, as a whole or in part, in a window; `written` are sorted."""
    first, last = bisect_left(written, window.began), bisect_left(written, window.ended)
    around = written[max(0, first - 1) : last + 1]
    return max((after - before for before, after in pairwise(around)), default=0.0)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class Changing(Chaos):
    """Change a pipeline a number of times, without any other fault."""

    def __init__(self, folder: Path, runtime: str, seed: int, *, rate: float, lanes: int) -> None:
        super().__init__(folder, runtime, "ring", seed, rate, lanes=lanes, **{TIMED: "1"})
        for client in self.clients:
            client.batch_events, client.rest = _BATCH_EVENTS, 0.01
        self.windows: list[Window] = []
        self.refusals: Counter[str] = Counter()  # by what the command said last
        self.first: Mapping[str, Held] = {}
        self.last: Mapping[str, Held] = {}

    def measure(self, changes: int, quiet: int) -> Outcome:
        """Change it, and look at it without a change after each of the first `quiet` ones."""

        def work() -> None:
            self._start_over()
            self.first = held.held(self.pids(""))
            for number in range(changes):
                took = self._change()
                if number < quiet:
                    began = time.monotonic()
                    self.watch(took)
                    self.windows.append(Window(QUIET, began, time.monotonic()))
            self._start_over()
            self.last = held.held(self.pids(""))
            deadline = time.monotonic() + _REST_SECONDS
            while held.more(self.first, self.last, changes) and time.monotonic() < deadline:
                self.watch(1.0)
                self.last = held.held(self.pids(""))

        return self.run_under_load(work)

    def _start_over(self) -> None:
        """Make the pipeline what a run begins and ends with: one lane of the first version, after some changes."""
        (self.folder / "lanes").write_text("1")
        for version in (1, 0):  # what a change loads for the first time is loaded then
            self.wait_until(partial(self._become, version), 300, "a change that is not refused")

    def _become(self, version: int) -> bool:
        self.version = version - 1  # `reload` runs the next one
        return self.reload() == "reload"

    def _change(self) -> float:
        before = self._now()
        self.version = self.random.choice([one for one in range(_VERSIONS) if one != before[0] - 1])
        if self.lanes > 1 and self.random.random() < 0.25:
            (self.folder / "lanes").write_text(str(self.random.randint(1, self.lanes)))
        began = time.monotonic()
        is_done = self.reload() == "reload"
        self.watch(_AFTER_SECONDS)
        ended = time.monotonic()
        if not is_done:
            self.refusals[(self.folder / "reload.log").read_text().rstrip().rpartition("\n")[2]] += 1
        self.windows.append(Window(kind_of(before, self._now()) if is_done else REFUSED, began, ended))
        return ended - began

    def _now(self) -> tuple[int, int]:
        return int((self.folder / "version").read_text()), int((self.folder / "lanes").read_text())

    def pauses(self) -> dict[str, list[float]]:
        """Return the pause of each window, by kind."""
        written = [times(self.folder, name) for name in self.readers]
        found: dict[str, list[float]] = {}
        for window in self.windows:
            found.setdefault(window.kind, []).append(max(pause(each, window) for each in written))
        return found


def done(pauses: dict[str, list[float]]) -> list[float]:
    """Return the pauses of the changes that were not refused."""
    return [value for kind, values in pauses.items() if kind not in {QUIET, REFUSED} for value in values]


def table(runtime: str, pauses: dict[str, list[float]]) -> list[str]:
    """Return a row for each kind of change, one for all of them, and one without a change."""
    changes = done(pauses)
    rows = {QUIET: pauses.get(QUIET, []), "all changes": changes}
    rows |= {kind: values for kind, values in sorted(pauses.items()) if kind != QUIET}
    made = ["| runtime | what changes | changes | p50 | p99 | longest |", "|---|---|---|---|---|---|"]
    for kind, values in rows.items():
        if values:
            shown = [
                f"{1e3 * value:.0f} ms" for value in (percentile(values, 0.5), percentile(values, 0.99), max(values))
            ]
            made.append(f"| {runtime} | {kind} | {len(values)} | {' | '.join(shown)} |")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pauses", description=__doc__)
    parser.add_argument("--changes", type=int, default=1_000, help="for each runtime")
    parser.add_argument("--runtime", action="append", choices=list(WANTED))
    parser.add_argument("--lanes", type=int, default=1, help="the most lanes on Ray; 1: their number does not change")
    parser.add_argument("--rate", type=float, default=4_000.0, help="events a second")
    parser.add_argument("--quiet", type=int, default=20, help="how often it is looked at without a change")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    os.environ[TIMED] = "1"  # for the destination, which inherits it
    is_broken = False
    for runtime in options.runtime or list(WANTED):
        with tempfile.TemporaryDirectory(prefix="polku-pauses-") as folder:
            lanes = options.lanes if runtime == "ray" else 1
            changing = Changing(Path(folder), runtime, options.seed, rate=options.rate, lanes=lanes)
            outcome = changing.measure(options.changes, options.quiet)
            pauses = changing.pauses()
        print("\n".join(table(runtime, pauses)))
        if changing.refusals.total() > _MOST_REFUSED * options.changes:
            is_broken = True
            print(f"BROKEN: {changing.refusals.most_common(5)}", flush=True)
            continue
        found = percentile(done(pauses), 0.99)
        verdict = "as wanted" if found <= WANTED[runtime] else "LONGER than wanted"
        print(f"\np99 {found:.3f} s, {verdict} (≤ {WANTED[runtime]:g} s); {changing.refusals.total()} changes refused")
        for reason, count in changing.refusals.most_common(5):
            print(f"refused {count} times: {reason}")
        print(f"{outcome}\n", flush=True)
        print("\n".join([*held.table(changing.first, changing.last), ""]), flush=True)
        if leaks := held.more(changing.first, changing.last, options.changes):
            is_broken = True
            print(f"BROKEN: there is more than at first: {'; '.join(leaks)}", flush=True)
        try:
            outcome.verdict.check(duplicates=False, order=lanes == 1)
            assert not outcome.refused, f"{outcome.refused} events were refused"
        except AssertionError as error:
            is_broken = True
            print(f"BROKEN: {error}", flush=True)
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
