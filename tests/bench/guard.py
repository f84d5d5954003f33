"""Is the inline pipeline as near to a bare relay as it should be? A judgement that a busy machine does not change.

Both are measured in turns in the same run, and compared by the CPU that they use for an event, the least of the rounds
of each: other work on the machine makes a process wait much longer, but hardly work more.
"""

from __future__ import annotations

from collections.abc import Sequence

from polku.bench import Load, Result, Subject, Workload
from polku.bench.comparison import take_turns
from polku.bench.trial import BARE

MOST = 2.6  # times the CPU of the bare relay for an event; it was 1.5 to 1.8 when this was written
LOAD = Load(events=40_000, workload=Workload(cluster="prod", metadata=3, size=200))
"""What people send: a cluster on the batch, and some metadata."""


def rounds(subjects: Sequence[Subject], count: int) -> list[list[Result]]:
    """Measure the bare relay and the subjects in turns."""
    return take_turns([BARE, *subjects], LOAD, count)


def cost_ratio(bare: Sequence[Result], pipeline: Sequence[Result]) -> float:
    """Return how many times the bare relay's CPU the pipeline uses for an event."""
    return min(result.cpu_us_per_event for result in pipeline) / min(result.cpu_us_per_event for result in bare)
