"""Is the inline pipeline as near to a bare relay as it should be? A judgement that a busy machine does not change.

Both are measured in turns in the same run, and compared by the CPU that they use for an event, the least of the rounds
of each: other work on the machine makes a process wait much longer, but hardly work more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polku.bench import Load, Result, Subject, Workload
from polku.bench.comparison import take_turns
from polku.bench.trial import BARE


class Guarded(NamedTuple):
    """What is sent, and how many times the CPU of the bare relay an event may cost."""

    load: Load
    most: float


GUARDED = {
    "batches": Guarded(Load(events=40_000, workload=Workload(cluster="prod", metadata=3, size=200)), 2.6),
    "payloads of 1 kB": Guarded(
        Load(events=20_000, in_flight=8, workload=Workload(cluster="prod", metadata=3, size=1_200)), 2.6
    ),
    "messages of ten": Guarded(
        Load(events=20_000, workload=Workload(batch=10, cluster="prod", metadata=3, size=200)), 1.0
    ),
    "unary calls": Guarded(
        Load(events=5_000, workload=Workload(batch=1, unary=True, cluster="prod", metadata=3, size=200)), 0.4
    ),
}
"""What people send: a cluster on the message, and some metadata; some of the rows of `tests.bench.sent`."""


def rounds(subjects: Sequence[Subject], load: Load, count: int) -> list[list[Result]]:
    """Measure the bare relay and the subjects in turns."""
    return take_turns([BARE, *subjects], load, count)


def cost_ratio(bare: Sequence[Result], pipeline: Sequence[Result]) -> float:
    """Return how many times the bare relay's CPU the pipeline uses for an event."""
    return min(result.cpu_us_per_event for result in pipeline) / min(result.cpu_us_per_event for result in bare)
