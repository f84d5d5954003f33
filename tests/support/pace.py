"""Bounds of processor time that hold on a machine which others use as well."""

from __future__ import annotations

import time
from collections.abc import Callable

_NOMINAL_SECONDS = 0.01  # of `_work` on a core that does nothing else
_TRIES = 5


def pace() -> float:
    """Return by how much a limit is to be multiplied: 2 on an idle machine, and more where others use the same core.

    Two programs on the two threads of one core take twice the processor time each.
    """
    return 2 * max(1.0, _work() / _NOMINAL_SECONDS)


def check_cost(work: Callable[[], object], limit: float) -> None:
    """Raise `AssertionError` where some work takes more processor seconds than `limit` times `pace()`, in every try.

    The time is that of this thread: others of the process, of other tests' pipelines, are none of it.
    """
    seen: list[str] = []
    for _ in range(_TRIES):
        began = time.thread_time()
        work()
        used, allowed = time.thread_time() - began, limit * pace()
        if used < allowed:
            return
        seen.append(f"{used:.3f} s where {allowed:.3f} s are allowed")
    raise AssertionError(f"in each of {_TRIES} tries: {'; '.join(seen)}")


def _work() -> float:
    """Return the processor seconds of some plain work."""
    began = time.thread_time()
    text = {number: str(number) for number in range(50_000)}
    assert sum(map(len, text.values())) > 0
    return time.thread_time() - began
