"""Run simulated cases: `python -m tests.simulation --seeds 1-10000`, or `--seconds 60` of seeds that nobody has tried.

Each case that breaks a promise is made smaller and printed as one line that runs it again. `--seed N --trace` and
`--case JSON --trace` print what happens in one; `--mutants` brings old faults back and finds them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings

from tests.simulation import known, many
from tests.simulation.generate import generate
from tests.simulation.run import run
from tests.simulation.shrink import kind_of, shrink


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; return 1 where a promise was broken."""
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")  # those of processes that died
    options = _parser().parse_args(arguments)
    if options.mutants is not None:
        from tests.simulation.mutants.table import find_all

        return find_all(options.mutants, seconds=options.seconds or 60.0)
    if options.failed:
        return max(map(_again, many.FAILED.read_text().splitlines()), default=0)
    if options.seed is not None or options.case:
        return _one(options)
    return many.run_many(options, _known(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", help="from and to, such as 1-10000")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to try seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="run one case")
    parser.add_argument("--case", help="run one case, as JSON")
    parser.add_argument("--failed", action="store_true", help="run the cases that failed once")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--shrink", type=float, default=15.0, help="seconds for making a failing case smaller")
    text = "what cases leave out, instead of what known.py says; '-': nothing; 'model': the model of the journal"
    parser.add_argument("--known", help=text)
    parser.add_argument("--mutants", nargs="*", help="bring these faults back, or all, and find them")
    return parser


def _known(options: argparse.Namespace) -> frozenset[str]:
    return known.features() if options.known is None else frozenset(options.known.split(",")) - {"-", ""}


def _again(line: str) -> int:
    case = json.loads(line)
    with many.watched(case):
        faults = run(case).faults
    if faults:
        print(f"# {many.about()}", *faults, sep="\n")
        many.print_case(case)
    return 1 if faults else 0


def _one(options: argparse.Namespace) -> int:
    case = json.loads(options.case) if options.case else generate(options.seed, _known(options))
    result = run(case, trace=options.trace)
    print(*result.faults, sep="\n")
    if result.faults and options.shrink and not options.case:
        many.print_case(shrink(case, kind_of(result.faults), seconds=options.shrink))
    return 1 if result.faults else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of texts must have the same order each time
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
