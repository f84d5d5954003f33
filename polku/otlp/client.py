"""The running form of the OtlpEmitter."""

from __future__ import annotations

from typing import NamedTuple

from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.parts import fail, send_parts
from polku.otlp.emitter import OtlpEmitter
from polku.otlp.grouping import Request, group
from polku.otlp.transports import transport_of


class OtlpClientStatistics(NamedTuple):
    """Count requests and records; `partial` requests were taken in part, `rejected` records of them were not."""

    requests: int
    records: int
    partial: int
    rejected: int


class OtlpClient:
    """Make requests of batches, and failures of answers."""

    def __init__(self, config: OtlpEmitter, clock: Clock) -> None:
        self.concurrency = config.window
        self._config = config
        self._transport = transport_of(config, clock)
        self._requests = self._records = self._partial = self._rejected = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the events that were not taken; raises where none was."""
        requests, failures = group(batch, self._config.max_events, self._config.max_body_bytes)
        return failures + await send_parts(requests, self._send)

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()

    def statistics(self) -> OtlpClientStatistics:
        """Return a snapshot of the counters."""
        return OtlpClientStatistics(self._requests, self._records, self._partial, self._rejected)

    async def _send(self, request: Request) -> list[Failure]:
        """Send one request; raises `EmitError` where it was not taken."""
        self._requests += 1
        partial = await self._transport.send(request.signal, request.body)
        if partial.rejected <= 0:
            self._records += len(request.positions)
            return []
        self._partial += 1
        self._rejected += partial.rejected
        count = len(request.positions)
        which = "" if count == 1 else f", and it does not say which of {count} records they are"
        reason = f"{partial.rejected} of the request were rejected{which}: {partial.message}"
        return fail(request, reason, retryable=False)
