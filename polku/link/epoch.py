"""Epochs: numbers that tell one life of a sender from the others, the later ones higher.

The clock gives the first guess, as two lives of a sender share nothing else. A clock can be set back, so a guess may be
too low: the receiver then says which epoch it knows, and the sender takes a higher one. Two senders that hear of the
same one must not take the same, as batches are known by epoch and number: what is added is random.
"""

from __future__ import annotations

import threading
import time

_SPREAD = 1 << 32

_lock = threading.Lock()
_latest = 0


def new_epoch(above: int = 0) -> int:
    """Return an epoch that is higher than `above` and than all that this process was given before."""
    global _latest
    with _lock:
        _latest = max(_latest, above)
        now = time.time_ns()
        if now > _latest:
            _latest = now
        else:
            import secrets  # where the clock was set back: a gateway is ready sooner

            _latest += 1 + secrets.randbelow(_SPREAD)
        return _latest
