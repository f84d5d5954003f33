"""What `GET /health`, `/health/live` and `/health/ready` answer, whoever has read the request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from polku.gateway.http.answer import JSON, health_json
from polku.gateway.http.events import HttpAnswer
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.state import ServerState
from polku.health import Health
from polku.log import RepeatedLog
from polku.usercode import is_ours

LIVE, READY, REPORT = "/health/live", "/health/ready", "/health"
FRESH = {"Cache-Control": "no-store"}
_TEXT = {**FRESH, "Content-Type": "text/plain; charset=utf-8"}
_REPEATED = RepeatedLog(logging.getLogger(__name__))


class HealthAnswers:
    """Tell how the pipeline is: `health` judges it, `gate` knows who may read names of parts."""

    def __init__(self, health: Callable[[], Awaitable[Health]], gate: HttpGate, state: ServerState) -> None:
        self._health = health
        self._gate = gate
        self._state = state
        self._started = time.monotonic()

    async def answer(
        self, path: str, *, strict: bool, authorization: str, transport: asyncio.BaseTransport | None
    ) -> HttpAnswer:
        """Return the answer at one of the three paths."""
        if path == LIVE:
            return HttpAnswer(200, _TEXT, b"live\n")
        health = await self._judge()
        if path == READY:
            is_ready = self._state.serving and health.ready
            return HttpAnswer(200, _TEXT, b"ready\n") if is_ready else HttpAnswer(503, _TEXT, b"not ready\n")
        well = health.healthy if strict else health.ready
        status = 200 if well and self._state.serving else 503
        health = self._gate.shown(authorization, transport, health)
        health = health._replace(healthy=health.healthy and self._state.serving)
        body = health_json(health, int(time.monotonic() - self._started))
        return HttpAnswer(status, {**FRESH, "Content-Type": JSON}, body)

    async def _judge(self) -> Health:
        try:
            return await self._health()
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("health", "the pipeline's health cannot be told")
            why = f"does not answer: {type(error).__name__}"
            return Health(False, {"hub": (False, why)}, 0, False, f"hub {why}")
