"""Pipelines that nobody has stopped when their program ends: they are drained for some seconds, and losses are said.

A signal that ends the process at once, such as SIGTERM where the program has no handler for it, leaves no time.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
from typing import TYPE_CHECKING

from polku.runtime.report import StopReport, stop_report
from polku.text import named

if TYPE_CHECKING:
    from polku.pipeline import Pipeline

DRAIN_SECONDS = 5.0
_END_SECONDS = 2.0  # a stop that user code blocks does not return
_LOG = logging.getLogger(__name__)
_pipelines: set[Pipeline] = set()


def watch(pipeline: Pipeline) -> None:
    """Stop a pipeline at the end of the program, unless it has ended by then.

    What is registered last is called first: so this comes before Ray's own end.
    """
    _pipelines.difference_update([other for other in _pipelines if other.has_ended])
    _pipelines.add(pipeline)
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)


def _stop_all() -> None:
    endings = [(pipeline, pipeline.end_nowait(DRAIN_SECONDS)) for pipeline in _pipelines]
    for pipeline, ending in endings:
        if ending is not None:
            _say(pipeline, ending)
    _pipelines.clear()


def _say(pipeline: Pipeline, ending: concurrent.futures.Future[StopReport]) -> None:
    """Log what became of acknowledged events where they are lost, or may be."""
    try:
        try:
            report = ending.result(DRAIN_SECONDS + _END_SECONDS)
        except TimeoutError:
            report = pipeline.report_nowait().result(_END_SECONDS)
    except Exception as error:
        _LOG.error("pipeline %s could not be stopped at the end of the program: %s", pipeline.plan.name, named(error))
        report = stop_report(pipeline.plan, {}, complete=False, seconds=0.0, silent=["the pipeline"])
    if report.loss:
        _LOG.error("pipeline %s was not stopped before the end of the program: %s", pipeline.plan.name, report.loss)
