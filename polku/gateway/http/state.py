"""What an HTTP server is at: whether it takes requests, and how many have no answer yet."""

from __future__ import annotations

import asyncio
import contextlib


class ServerState:
    """Count requests, and know whether clients are to come, to stay, or to go."""

    def __init__(self) -> None:
        self.serving = True  # load balancers are told to come
        self.leaving = False  # each connection ends with its next answer
        self._busy = 0
        self._quiet = asyncio.Event()

    @property
    def closes(self) -> bool:
        """Whether a connection ends with its answer."""
        return not self.serving or self.leaving

    def begin(self) -> None:
        """Count a request in."""
        self._busy += 1

    def end(self) -> None:
        """Count out a request that has its answer."""
        self._busy -= 1
        if not self._busy:
            self._quiet.set()

    async def wait_quiet(self, seconds: float) -> None:
        """Return when every request has its answer, or after a time."""
        if self._busy and seconds:
            self._quiet.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), seconds)
