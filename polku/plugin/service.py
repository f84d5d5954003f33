"""What a plugin answers to the router: Info and Health for both kinds, Ingest, or Emit and Shutdown."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from polku import checks
from polku.batch.batch import Batch
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.emit.attempts import is_attempt_of_code
from polku.emit.outcome import read_outcome
from polku.errors import InputError, MisconfiguredError, RecordError, RejectedError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.hooks import call_hook
from polku.log import RepeatedLog
from polku.text import line, named, said, trace
from polku.usercode import as_exception, contained, is_ours
from polku.v1.gateway_pb2 import EventPayload
from polku.v1.plugin_pb2 import (
    EmitError,
    EmitResponse,
    IngestError,
    IngestRequest,
    IngestResponse,
    PluginHealthResponse,
    PluginInfo,
    ShutdownResponse,
)

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)


class Service:
    """Answer for one component; it is started before the first call and closed at the end."""

    service = ""

    def __init__(self, component: Any, info: PluginInfo, workers: int) -> None:
        self.info = info
        self._component = component
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=info.name)
        self._is_open = False
        self._turn = asyncio.Lock()
        self._stopping = False

    async def open(self) -> None:
        """Start the component, if it is not open."""
        async with self._turn:
            if not self._is_open:
                await call_hook(self._component, "start")
                self._is_open = True

    async def close(self) -> None:
        """Close the component, if it is open."""
        async with self._turn:
            if self._is_open:
                self._is_open = False
                await call_hook(self._component, "close")

    def stop(self) -> None:
        """Say from now on that the plugin is not healthy."""
        self._stopping = True

    def handlers(self) -> dict[str, Any]:
        """Return gRPC's handlers by method."""
        unary = grpc.unary_unary_rpc_method_handler
        return {
            "Info": unary(self._info, Empty.FromString, PluginInfo.SerializeToString),
            "Health": unary(self._health, Empty.FromString, PluginHealthResponse.SerializeToString),
        }

    async def _info(self, request: Empty, context: Any) -> PluginInfo:
        return self.info

    async def _health(self, request: Empty, context: Any) -> PluginHealthResponse:
        if self._stopping:
            return PluginHealthResponse(healthy=False, message="the plugin is stopping")
        ask = getattr(self._component, "health", None)
        if not callable(ask):
            return PluginHealthResponse(healthy=True)
        try:
            answer = await self._call(ask)
        except Exception as error:  # the author's code may raise anything: that is an answer too
            return PluginHealthResponse(healthy=False, message=named(error))
        return PluginHealthResponse(
            healthy=answer is not False, message=line(answer) if isinstance(answer, str) else ""
        )

    async def _call(self, function: Callable[..., Any], *given: Any) -> Any:
        """Call the author's code: async on the event loop, sync in a thread, and a generator to its end there.

        Whatever it raises comes as an `Exception`.
        """
        return await contained(self._called(function, *given))

    async def _called(self, function: Callable[..., Any], *given: Any) -> Any:
        if checks.is_async(function):
            return await function(*given)
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._threads, _run, function, given)
        return await result if inspect.isawaitable(result) else result


class IngestorService(Service):
    """Serve `IngestorPlugin`."""

    service = "polku.v1.IngestorPlugin"

    def __init__(self, component: Any, info: PluginInfo, workers: int) -> None:
        from polku.ingest.adapt import as_ingestor

        super().__init__(as_ingestor(component, SystemClock()), info, workers)

    def handlers(self) -> dict[str, Any]:
        """Return gRPC's handlers by method."""
        unary = grpc.unary_unary_rpc_method_handler
        ingest = unary(self._ingest, IngestRequest.FromString, IngestResponse.SerializeToString)
        return {**super().handlers(), "Ingest": ingest}

    async def _ingest(self, request: IngestRequest, context: Any) -> IngestResponse:
        origin = IngestContext(request.source, request.cluster, request.format)
        try:
            records = await self._call(self._component.ingest, request.data, origin)
            return _response(records)
        except RecordError as error:
            return IngestResponse(errors=[_ingest_error(error)])
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, said(error))
        except BaseException as error:  # what it returned may raise when it is read
            if is_ours(error):
                raise
            _REPEATED.exception(
                (self.info.name, "ingest"), "%s could not ingest %d bytes", self.info.name, len(request.data)
            )
            await context.abort(grpc.StatusCode.INTERNAL, named(error))
        raise AssertionError("unreachable: abort raises")


class EmitterService(Service):
    """Serve `EmitterPlugin`."""

    service = "polku.v1.EmitterPlugin"

    def __init__(self, component: Any, info: PluginInfo) -> None:
        from polku.emit.adapt import built

        running: Any = built(component, SystemClock())
        concurrency: int = getattr(running, "concurrency", 1)
        super().__init__(running, info, concurrency + 1)  # one more, so that Health never waits
        self._places = asyncio.Semaphore(concurrency)

    def handlers(self) -> dict[str, Any]:
        """Return gRPC's handlers by method."""
        unary = grpc.unary_unary_rpc_method_handler
        return {
            **super().handlers(),
            "Emit": unary(self._emit, None, EmitResponse.SerializeToString),
            "Shutdown": unary(self._shutdown, Empty.FromString, ShutdownResponse.SerializeToString),
        }

    async def _emit(self, request: bytes, context: Any) -> EmitResponse:
        try:
            message = EventPayload.FromString(request)  # the same bytes as an EmitRequest
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not a valid EmitRequest: {error}")
            raise
        batch = Batch.from_message(message, request)
        if not len(batch):
            return EmitResponse()
        given = batch.sealed()  # what the component changes in it changes nothing of the answer
        try:
            async with self._places:
                await self.open()
                failures = await read_outcome(await self._call(self._component.emit, given), batch, given)
        except RejectedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, said(error))
        except MisconfiguredError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, said(error))
        except RetryableError as error:
            await context.abort(grpc.StatusCode.ABORTED, said(error))
        except BaseException as error:  # what it returned may raise when it is read
            if is_ours(error):
                raise
            _REPEATED.exception((self.info.name, "emit"), "%s could not emit %d events", self.info.name, len(batch))
            is_fault = is_attempt_of_code(as_exception(error))  # else what it cannot reach may come back
            await context.abort(grpc.StatusCode.INTERNAL if is_fault else grpc.StatusCode.ABORTED, named(error))
        failed = {f.event_id: EmitError(event_id=f.event_id, message=f.reason, retryable=f.retryable) for f in failures}
        delivered = sum(event_id not in failed for event_id in batch.ids)
        return EmitResponse(success_count=delivered, failed_event_ids=list(failed), errors=list(failed.values()))

    async def _shutdown(self, request: Empty, context: Any) -> ShutdownResponse:
        try:
            await self.close()
        except Exception as error:
            _LOG.error("%s could not finish\n%s", self.info.name, trace(error))
            return ShutdownResponse(success=False, message=named(error))
        return ShutdownResponse(success=True)


def _run(function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    try:
        result = function(*given)
        return list(result) if inspect.isgenerator(result) else result
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise as_exception(error) from error  # no future can hold what it was


def _response(records: Any) -> IngestResponse:
    response = IngestResponse()
    for record in records:
        if isinstance(record, RecordError):
            response.errors.append(_ingest_error(record))
        elif isinstance(record, Event):
            response.events.append(record)
        else:
            raise TypeError(f"an ingestor must return Events and RecordErrors, not {type(record).__name__}")
    return response


def _ingest_error(error: RecordError) -> IngestError:
    return IngestError(message=said(error), offset=error.offset or 0)
