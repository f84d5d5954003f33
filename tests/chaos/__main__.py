"""`python -m tests.chaos --seconds 600 --runtime ray --runtime inline`: random faults, and the oracle's verdict."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.driver import Chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each runtime")
    parser.add_argument("--runtime", action="append", choices=["ray", "inline"])
    parser.add_argument("--buffer", action="append", choices=["ring", "durable"])
    parser.add_argument(
        "--lanes",
        type=int,
        default=3,
        help="the most lanes on Ray, which come and go for half of the time; 1: they do not",
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    failed = 0
    runtimes, buffers = options.runtime or ["inline", "ray"], options.buffer or ["durable", "ring"]
    for runtime in runtimes:
        kinds = [(buffer, lanes) for buffer in buffers for lanes in ({1, options.lanes} if runtime == "ray" else {1})]
        for buffer, lanes in kinds:
            with tempfile.TemporaryDirectory(prefix="polku-chaos-") as folder:
                chaos = Chaos(Path(folder), runtime, buffer, options.seed, lanes=lanes)
                outcome = chaos.run(options.seconds / len(kinds))
                print(outcome, flush=True)
                try:
                    outcome.verdict.check(order=lanes == 1)
                except AssertionError as error:
                    failed += 1
                    print(f"BROKEN: {error}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
