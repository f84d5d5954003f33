"""The end of a drain that a second signal cuts short: what is lost by it is said all the same."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from polku.log_format import say
from polku.runtime.report import LOST_STATUS, stop_report

if TYPE_CHECKING:
    from polku.pipeline import Pipeline
    from polku.runtime.report import StopReport

SIGNALLED_STATUS = 130
_REPORT_SECONDS = 6.0  # a lane on Ray that does not answer is waited for 5 s
_AGAIN_SECONDS = 0.1


class HurriedEnd:
    """End this process at a second signal, in a thread of its own: the main thread may wait for anything.

    Until there is a pipeline to `watch` nothing is acknowledged, and the process ends at once.
    """

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None
        self._since = 0.0
        self._is_ending = False
        self._last_word = threading.Lock()

    def watch(self, pipeline: Pipeline) -> None:
        """Take note of a pipeline that takes events."""
        self._pipeline = pipeline

    def end(self) -> None:
        """End the process, from a signal handler; further signals change nothing."""
        if self._pipeline is None:
            os._exit(SIGNALLED_STATUS)
        if not self._is_ending:
            self._is_ending = True
            threading.Thread(target=self._end, args=(self._pipeline,), name="polku-hurried-end", daemon=True).start()

    def claim(self) -> None:
        """Return for who may say what became of the events; blocks where another thread is about to end the process."""
        self._last_word.acquire()

    def begin(self) -> None:
        """Take note of the time at which the drain begins."""
        self._since = time.monotonic()

    def _end(self, pipeline: Pipeline) -> None:
        report = self._report(pipeline)
        if not self._last_word.acquire(blocking=False):
            return  # the drain has come to its end meanwhile
        say("polku: a second signal ends the drain", level="warn")
        status = say_outcome(report) or SIGNALLED_STATUS
        logging.shutdown()
        os._exit(status)

    def _report(self, pipeline: Pipeline) -> StopReport:
        """Return what the pipeline says now; it says nothing in the moments before the drain's own end."""
        since = self._since or time.monotonic()
        until = time.monotonic() + _REPORT_SECONDS
        while (left := until - time.monotonic()) > 0 and not self._last_word.locked():
            with contextlib.suppress(Exception):
                report = pipeline.report_nowait().result(left)
                return report._replace(seconds=time.monotonic() - since)
            time.sleep(_AGAIN_SECONDS)
        seconds = time.monotonic() - since
        return stop_report(pipeline.plan, {}, complete=False, seconds=seconds, silent=["the pipeline"])


def say_outcome(report: StopReport) -> int:
    """Say what became of the events, and what is lost; return the exit status of a loss, else 0."""
    say(f"polku: stopped after {report.seconds:.1f} s; {report}")
    if not report.loss:
        return 0
    say(f"polku: {report.loss}; exit status {LOST_STATUS}", level="error")
    return LOST_STATUS
