"""Tests in a time that jumps to the next timer when everything waits: a busy machine changes no outcome of theirs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from polku.testing.trial.clock import VirtualClock
from polku.testing.trial.loop import VirtualLoop

P = ParamSpec("P")

_REAL_SECONDS = 60.0


def _fail(reason: str) -> None:
    raise TimeoutError(reason)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own whose time is virtual."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(VirtualClock(), _REAL_SECONDS, _fail)) as runner:
            runner.run(test(*args, **kwargs))

    return run
