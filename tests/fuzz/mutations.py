"""Inputs near to those of the corpus, other ones at each run: `python -m tests.fuzz.mutations [TARGET …] --seconds 60`.

Nothing guides it but the corpus, and it needs nothing installed; `python -m tests.fuzz` is guided by coverage. What it
finds is written into `fuzz-findings`; `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.support.pace import pace

CORPUS = Path(__file__).with_name("corpus")
FINDINGS = Path("fuzz-findings")
_LONGEST = 4_096  # bytes of an input, as `python -m tests.fuzz` has them
_SECONDS = 0.5  # of processor time for an input, on an idle machine
_TOKENS = (
    b"\x00",
    b"\xff" * 10,
    b"\x80" * 9,
    b"{",
    b"[[[[",
    b'"',
    b"\\u",
    b"1e999",
    b"\r\n",
    b"\xf0\x9f\x98\x80",
    b"null",
)


class FindingError(AssertionError):
    """Name an input for which a law does not hold: the file that has it, and the seed that made it."""


def mutated(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes that differ in some places, or whose end is that of another input."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6 if others else 4):
            case 0:
                changed[at:at] = random.randbytes(random.randint(1, 4))
            case 1:
                del changed[at : at + random.randint(1, 8)]
            case 2:
                changed[at : at + 1] = random.randbytes(1)
            case 3:
                end = at + random.randint(1, 16)
                changed[end:end] = changed[at:end]
            case 4:
                changed[at:at] = random.choice(_TOKENS) * random.choice((1, 1, 1, 30))
            case _:
                other = random.choice(others)
                changed[at:] = other[random.randrange(len(other) + 1) :]
    return bytes(changed[:_LONGEST])


def hunt(name: str, target: Callable[[bytes], None], corpus: Sequence[bytes], seconds: float, seed: int) -> int:
    """Give a target new inputs for some seconds of processor time; return how many. Raises `FindingError`."""
    random = Random(seed)
    end = time.thread_time() + seconds
    count = 0
    while (began := time.thread_time()) < end:
        data = mutated(random.choice(corpus), random, corpus)
        try:
            target(data)
        except Exception as error:
            raise FindingError(_told(name, data, seed, f"{type(error).__name__}: {error}")) from error
        spent = time.thread_time() - began
        if spent > _SECONDS and spent > _SECONDS * pace():
            raise FindingError(_told(name, data, seed, f"it takes {spent:.1f} s"))
        count += 1
    return count


def _told(name: str, data: bytes, seed: int, reason: str) -> str:
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{name}-{seed}"
    path.write_bytes(data)
    return f"{name}: {reason}; the input is in {path}, made with --seed {seed}: it goes into the corpus with its fix"


def inputs(name: str) -> list[bytes]:
    """Return the corpus of a target."""
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


def main(arguments: list[str] | None = None) -> None:
    """Give each target its share of the time."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.mutations", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all, if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them together")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args(arguments)
    names = options.targets or sorted(TARGETS)
    for name in names:
        count = hunt(name, TARGETS[name], inputs(name), options.seconds / len(names), options.seed)
        print(f"{name}: {count} inputs, no finding")


if __name__ == "__main__":
    main()
