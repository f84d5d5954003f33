"""Exceptions that user code and libraries raise besides `Exception`."""

from __future__ import annotations

import asyncio


class PanicException(BaseException):
    """Stand for pyo3's: a panic of a Rust extension derives from `BaseException` alone."""


HOSTILE = [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, PanicException]
