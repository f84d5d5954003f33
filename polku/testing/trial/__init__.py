"""One run of a pipeline in a test, in this process and in virtual time: see `run`."""

from __future__ import annotations

from polku.testing.trial.clock import VirtualClock
from polku.testing.trial.destinations import Flaky, Refusing, Slow
from polku.testing.trial.given import Pause, Raw
from polku.testing.trial.outcome import Dropped, Outcome, Refused
from polku.testing.trial.run import run, run_async

__all__ = [
    "Dropped",
    "Flaky",
    "Outcome",
    "Pause",
    "Raw",
    "Refused",
    "Refusing",
    "Slow",
    "VirtualClock",
    "run",
    "run_async",
]
