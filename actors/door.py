"""The way into a pipeline for the tasks and actors of an application."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
import ray.exceptions

from polku.errors import UnavailableError

_ATTEMPTS = 5
_PAUSE = 0.5  # seconds; an actor that died is back within a few of them


class RayDoor:
    """Submit messages to the ingest actor; picklable."""

    def __init__(self, ingest: Any) -> None:
        self._ingest = ingest

    def submit(self, message: bytes, timeout: float | None) -> bytes:
        """Block until the answer is there; a message whose outcome is unknown is sent again, with the same ids."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer: bytes = ray.get(self._ingest.submit.remote(message), timeout=timeout)
                return answer
            except ray.exceptions.GetTimeoutError:
                raise TimeoutError(f"no answer within {timeout} s; the events may have been accepted") from None
            except ray.exceptions.RayActorError as error:
                _give_up(attempt, error)
                time.sleep(_PAUSE)
        raise AssertionError("unreachable")

    async def submit_async(self, message: bytes) -> bytes:
        """Return the answer without blocking the event loop."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer: bytes = await self._ingest.submit.remote(message)
                return answer
            except ray.exceptions.RayActorError as error:
                _give_up(attempt, error)
                await asyncio.sleep(_PAUSE)
        raise AssertionError("unreachable")


def _give_up(attempt: int, error: Exception) -> None:
    if attempt == _ATTEMPTS:
        raise UnavailableError(f"the pipeline does not answer: {error}") from None
