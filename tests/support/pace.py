"""How slow this machine is at the moment, for tests that bound the processor time of something."""

from __future__ import annotations

import time

_NOMINAL_SECONDS = 0.01  # of `_work` on a core that does nothing else


def pace() -> float:
    """Return by how much a limit is to be multiplied: 2 on an idle machine, and more where others use the same core.

    Two programs on the two threads of one core take twice the processor time each.
    """
    return 2 * max(1.0, _work() / _NOMINAL_SECONDS)


def _work() -> float:
    """Return the processor seconds of some plain work."""
    began = time.process_time()
    text = {number: str(number) for number in range(50_000)}
    assert sum(map(len, text.values())) > 0
    return time.process_time() - began
