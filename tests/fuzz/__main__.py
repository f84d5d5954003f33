"""Fuzz what reads bytes of strangers, guided by coverage: `python -m tests.fuzz [TARGET …] --seconds 60`.

Needs atheris (`pip install atheris`). Each target runs in a process of its own, begins with its corpus, and writes what
it finds into `--findings`; a finding goes into the corpus with its fix.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


def main(arguments: list[str] | None = None) -> int:
    """Fuzz the targets one after the other; return 1 where one has a finding, 2 where atheris is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is missing: pip install atheris", file=sys.stderr)
        return 2
    if options.only:
        _fuzz(options.targets[0], options.seconds, options.findings)
    names = options.targets or sorted(folder.name for folder in CORPUS.iterdir())
    command = [sys.executable, "-m", "tests.fuzz", "--only"]
    return max(
        subprocess.run(
            [*command, name, "--seconds", str(options.seconds), "--findings", str(options.findings)], check=False
        ).returncode
        != 0
        for name in names
    )


def _fuzz(name: str, seconds: int, findings: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["polku"]):
        from tests.fuzz.targets import TARGETS
    findings.mkdir(parents=True, exist_ok=True)
    grown = findings / f"{name}-corpus"
    grown.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
    options += [f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1"]
    atheris.Setup([name, *options, str(grown), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    sys.exit(main())
