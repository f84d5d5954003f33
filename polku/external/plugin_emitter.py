"""The running form of the ExternalEmitter: batches to the plugin, what it did not take back.

Nothing is done for each event: a serialised `EventPayload` has the same bytes as a serialised `EmitRequest`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from polku.aio.slices import in_slices
from polku.batch.batch import Batch
from polku.contracts import Failure
from polku.emit.grpc.size import read_excess
from polku.emit.parts import BatchPart, FaultyPartError, LateError, RefusedPartError, TooLargeError, send_parts
from polku.emit.suspects import Suspects
from polku.errors import EmitError, MisconfiguredError, RetryableError
from polku.external.client import CallError, PluginClient, PluginState
from polku.external.emit_response import reading_failures
from polku.external.info_checks import emitter_fault
from polku.text import line, said
from polku.tracing.context import with_traceparent
from polku.v1.plugin_pb2 import EmitResponse, ShutdownResponse

if TYPE_CHECKING:
    from polku.external.emitter import ExternalEmitter

_LOG = logging.getLogger(__name__)
_GRACE = 5.0  # seconds; the SDK gives the calls of a plugin that stops as long
_MISCONFIGURED = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
    }
)
_FAULTY = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_REJECTED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})


class PluginEmitter:
    """Call `Emit`, in parts where a batch is too large for one message, or is refused as a whole."""

    def __init__(self, config: ExternalEmitter) -> None:
        self.concurrency = config.concurrency
        self._config = config
        self._limit = config.max_message_bytes
        self._client = PluginClient("EmitterPlugin", config.connection(), lambda info: emitter_fault(info, config.name))
        self._suspects = Suspects()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Begin to connect."""
        await self._client.start()

    async def close(self) -> None:
        """Let the plugin finish, and close the connection."""
        try:
            if self._client.is_known:
                await self._shut_down()
        finally:
            await self._client.close()

    async def disconnect(self) -> None:
        """Close the connection to a plugin that is not ours any more; it goes on without us.

        What it has been handed it may have delivered: its answers are waited for, as long as a plugin that leaves takes
        for them. What is open then is delivered again, by whoever comes.
        """
        try:
            async with asyncio.timeout(_GRACE):
                await self._idle.wait()
        except TimeoutError:
            _LOG.warning("emitter %r: the plugin has not answered for what it has in hand", self._config.name)
        finally:
            await self._client.close()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the events that were not delivered; raises an `EmitError` where nothing is known to be."""
        self._in_flight += 1
        self._idle.clear()
        try:
            return await send_parts([BatchPart(with_traceparent(batch), range(len(batch)))], self._try)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def statistics(self) -> PluginState:
        """Return how the plugin is."""
        return self._client.state()

    async def _try(self, part: BatchPart) -> list[Failure]:
        return await self._suspects.send(part, self._send, lambda _: not self._client.state().alarm)

    async def _send(self, part: BatchPart) -> list[Failure]:
        payload = part.batch.payload
        if len(payload) > self._limit:
            raise TooLargeError(f"the event makes a message of {len(payload)} bytes, the limit is {self._limit}")
        try:
            answer = await self._client.call("Emit", payload)
        except CallError as error:
            raise self._error(error, len(payload)) from None
        try:
            response = EmitResponse.FromString(answer)
        except DecodeError as error:
            text = f"plugin at {self._config.address}: Emit: the answer is no EmitResponse ({error})"
            raise RetryableError(text) from None
        return await in_slices(reading_failures(part.ids, response))

    def _error(self, error: CallError, size: int) -> EmitError:
        excess = read_excess(error.text) if error.status is grpc.StatusCode.RESOURCE_EXHAUSTED else None
        if excess is not None and excess.size >= size:
            self._limit = min(self._limit, excess.limit)
            return TooLargeError(str(error))
        if error.status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return LateError(str(error))
        if error.status in _MISCONFIGURED:
            return MisconfiguredError(str(error))
        if error.status in _FAULTY:
            return FaultyPartError(str(error))
        return RefusedPartError(str(error)) if error.status in _REJECTED else RetryableError(str(error))

    async def _shut_down(self) -> None:
        try:
            answer = await self._client.call("Shutdown", b"", self._config.shutdown_timeout)
            response = ShutdownResponse.FromString(answer)
        except (CallError, DecodeError) as error:
            _LOG.warning("emitter %r: Shutdown failed: %s", self._config.name, said(error))
            return
        if not response.success:
            _LOG.warning("emitter %r: the plugin did not finish well: %s", self._config.name, line(response.message))
