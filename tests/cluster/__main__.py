"""Run the table of what becomes of a pipeline on four hosts: `python -m tests.cluster --buffer durable`.

`--fault` names one fault, or a part of its name; all are run otherwise, one after the other on one cluster.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.cluster.cluster import HEALTH, cluster
from tests.cluster.faults import FAULTS, HEADER, run
from tests.cluster.hosts import why_not


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--buffer", choices=["durable", "memory"], default="durable")
    parser.add_argument("--fault", action="append", default=[], help="a part of its name")
    parser.add_argument("--shape", choices=["chain", "shared", "divided"], default="chain")
    parser.add_argument("--health", choices=list(HEALTH), default="quick", help="as in cluster.yaml, or as Ray has it")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="for disks and logs, which stay")
    options = parser.parse_args()
    if reason := why_not():
        print(f"hosts cannot be had here: {reason}")
        return 2
    chosen = [fault for name, fault in FAULTS.items() if not options.fault or any(f in name for f in options.fault)]
    broken = 0
    with tempfile.TemporaryDirectory(prefix="polku-cluster-") as temporary:
        folder = options.folder or Path(temporary)
        arrangement = {"buffer": options.buffer, "shape": options.shape, "health": options.health}
        changes = {"step": "throttle", "partitions": 4}  # of the shape that is divided
        with cluster(folder, nodes=options.nodes, changes=changes, **arrangement) as made:
            print(HEADER, flush=True)
            for fault in chosen:
                outcome = run(made, fault, options.buffer)
                print(outcome, flush=True)
                broken += outcome.broken + outcome.reordered + (outcome.lost if options.buffer == "durable" else 0)
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
