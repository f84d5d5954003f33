"""The way into a pipeline for the tasks and actors of an application."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions

from polku.actors.attachment import SHUT_DOWN, connection
from polku.aio.loop_thread import check_process
from polku.errors import NotRunningError, PolkuError, UnavailableError
from polku.text import named

_ATTEMPTS = 5
_PAUSE = 0.5  # seconds; an actor that died is back within a few of them


class RayChannel:
    """Submit messages to the ingest actor of one lane, and of another one when it does not answer; picklable.

    `lanes` are handles, each with the address of its node. Each copy chooses its lane for itself, on its own node
    where there is one, and keeps to it, so that its events keep their order.
    """

    def __init__(self, lanes: Sequence[tuple[Any, str]]) -> None:
        self._lanes = tuple(lanes)
        self._connection = connection()
        self._process = os.getpid()
        here = ray.util.get_node_ip_address()
        near = [number for number, (_, address) in enumerate(self._lanes) if address == here]
        self._choice = random.choice(near or range(len(self._lanes)))

    def __reduce__(self) -> tuple[object, ...]:
        return RayChannel, (self._lanes,)

    def submit(self, message: bytes, timeout: float | None) -> bytes:
        """Block until the answer is there; a message whose outcome is unknown is sent again, with the same ids."""
        for attempt in self._attempts:
            self._check()
            try:
                answer: bytes = ray.get(self._ingest.submit.remote(message), timeout=timeout)
                return answer
            except ray.exceptions.GetTimeoutError:
                raise TimeoutError(f"no answer within {timeout} s; the events may have been accepted") from None
            except ray.exceptions.RayError as error:
                self._next(attempt, error)
                time.sleep(_PAUSE)
        raise AssertionError("unreachable")

    async def submit_async(self, message: bytes) -> bytes:
        """Return the answer without blocking the event loop."""
        for attempt in self._attempts:
            self._check()
            try:
                answer: bytes = await self._ingest.submit.remote(message)
                return answer
            except ray.exceptions.RayError as error:
                self._next(attempt, error)
                await asyncio.sleep(_PAUSE)
        raise AssertionError("unreachable")

    @property
    def _attempts(self) -> range:
        """Numbers from 1: lanes may have gone since, all but the first."""
        return range(1, _ATTEMPTS + len(self._lanes))

    @property
    def _ingest(self) -> Any:
        return self._lanes[self._choice][0]

    def _check(self) -> None:
        """Raise `NotRunningError` where this process has left the pipeline's Ray: a call would start another one.

        So it does in a fork, which has none of the threads that Ray needs: a call would never return.
        """
        check_process(self._process)
        if connection() != self._connection:
            raise NotRunningError(SHUT_DOWN)

    def _next(self, attempt: int, error: Exception) -> None:
        """Turn to another lane; raises what is no matter of one lane, or when all attempts are spent."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, PolkuError) and not isinstance(cause, UnavailableError):
            raise cause from None
        if attempt == self._attempts[-1] or connection() != self._connection:
            why = named(cause or error).partition("\\n")[0]  # Ray says a page
            raise UnavailableError(f"the pipeline does not answer, or has stopped: {why}") from None
        self._choice = (self._choice + 1) % len(self._lanes)
