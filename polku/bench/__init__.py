"""Measure a pipeline: a generator, the pipeline and a counting sink, each in a process of its own.

`polku bench` is the command; `measure` is one measurement, for programs. Nothing of this is imported by a pipeline.
"""

from __future__ import annotations

from polku.bench.child import BenchError
from polku.bench.result import EmitterResult, PartResult, Result
from polku.bench.trial import Load, Subject, measure
from polku.bench.workload import Workload

__all__ = ["BenchError", "EmitterResult", "Load", "PartResult", "Result", "Subject", "Workload", "measure"]
