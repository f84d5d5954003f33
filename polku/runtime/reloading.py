"""Load a pipeline's file again when somebody asks for it, and run what it says from then on.

Anybody may ask, from any thread or a signal handler; the thread that serves the pipeline does it.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from polku.errors import ChangeError, PlanError, PolkuError
from polku.log import RepeatedLog
from polku.text import counted, named, said

if TYPE_CHECKING:
    from polku.hub import Hub
    from polku.pipeline import Pipeline
    from polku.plan import Plan
    from polku.runtime.notify import Notifier

_REPEATED = RepeatedLog(logging.getLogger(__name__))

Load = Callable[[], "Hub"]
"""Return the hub to run from now on; raises `PolkuError` where there is none."""


class Reloaded(NamedTuple):
    """What became of a wish: the difference by part, a line each, and why nothing was changed (empty: it was)."""

    lines: Sequence[str]
    refused: str = ""


class Reloader:
    """Have a pipeline changed by `load` when that is asked for; with `watch`, whenever what that returns changes."""

    def __init__(self, load: Load, *, watch: Callable[[], object] | None = None) -> None:
        self._load = load
        self._watch = watch
        self._seen = watch() if watch is not None else None
        self._is_signalled = False
        self._lock = threading.Lock()
        self._waiting: list[concurrent.futures.Future[Reloaded]] = []

    def signal(self) -> None:
        """Ask for it in a signal handler."""
        self._is_signalled = True

    def ask(self) -> concurrent.futures.Future[Reloaded]:
        """Ask for it; return the future of what became of it."""
        answer: concurrent.futures.Future[Reloaded] = concurrent.futures.Future()
        with self._lock:
            self._waiting.append(answer)
        return answer

    def serve(
        self,
        pipeline: Pipeline,
        say: Callable[[str], None],
        notifier: Notifier | None = None,
        *,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        """Do it, if it was asked for, and say what was changed, or `complain` that nothing was; notify the system."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        is_signalled, self._is_signalled = self._is_signalled, False
        if not (waiting or is_signalled or self._has_changed()):
            return
        if notifier is not None:
            notifier.reloading()
        reloaded = self._reload(pipeline)
        for line in reloaded.lines:
            say(f"polku: reload: {line}")
        (complain if complain and reloaded.refused else say)(f"polku: reload: {reloaded.refused or 'done'}")
        pipeline.note_reload(reloaded.refused)
        if notifier is not None:
            notifier.ready(f"not reloaded: {reloaded.refused}" if reloaded.refused else "reloaded")
        for answer in waiting:
            answer.set_result(reloaded)

    def _has_changed(self) -> bool:
        if self._watch is None:
            return False
        before, self._seen = self._seen, self._watch()
        return before != self._seen

    def _reload(self, pipeline: Pipeline) -> Reloaded:
        try:
            changed = pipeline.update_plan(self._plan(pipeline))
        except ChangeError as error:
            wanted = [line for line in error.difference.splitlines() if not line.startswith("refused ")]
            return Reloaded([f"would be {line}" for line in wanted], said(error))
        except PolkuError as error:
            return Reloaded((), f"nothing was changed: {said(error)}")
        except Exception as error:
            _REPEATED.exception("change", "a change was broken off")
            return Reloaded((), f"the change was broken off: {named(error)}")
        again = [f"emitter {name} gets {counted(count, 'event')} again" for name, count in changed.again.items()]
        return Reloaded([*changed.difference.lines(), *again])

    def _plan(self, pipeline: Pipeline) -> Plan:
        """Return the plan of what is loaded; raises `PolkuError`, also for whatever the file raises here alone."""
        from polku.tracing.export import traced

        try:
            return traced(pipeline.plan_of(self._load()), os.environ)
        except PolkuError:
            raise
        except (Exception, SystemExit) as error:
            _REPEATED.exception("load", "the pipeline's file failed where it was loaded again")
            raise PlanError(f"the file raised {named(error)}") from error
