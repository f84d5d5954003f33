"""The gRPC door: `polku.v1.Gateway`, the standard health service and reflection, on one port.

Messages come in as bytes and are read by the intake, so that a malformed one is answered and does not end its
stream. A stream is read ahead by a bounded number of batches and acknowledged in order; a client that does not read
its acknowledgements is not read from either.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from polku.codes import Code
from polku.errors import DrainingError, InputError, SettingError
from polku.gateway.health import Health
from polku.gateway.intake import Intake
from polku.gateway.turns import Turns
from polku.receipt import Counts
from polku.v1.gateway_pb2 import Ack, ComponentHealth, HealthRequest, HealthResponse

if TYPE_CHECKING:
    from polku.gateway.registry import RegistryService

_LOG = logging.getLogger(__name__)
_SERVICE = "polku.v1.Gateway"
_RETRY_AFTER_MS = "100"
_STATUS = {
    Code.BUFFER_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.INGESTOR_ERROR: grpc.StatusCode.INTERNAL,
}


class GatewayServer:
    """Serve one intake over gRPC."""

    def __init__(
        self, intake: Intake, health: Callable[[], Awaitable[Health]], registry: RegistryService | None = None
    ) -> None:
        self._intake = intake
        self._registry = registry
        self._health = health
        self._server: grpc.aio.Server | None = None
        self._health_service: Any = None
        self._started = time.monotonic()
        self._baselines: OrderedDict[str, Counts] = OrderedDict()
        self._streams = 0

    async def start(self, address: str, *, shared: bool = False) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` where it cannot be had.

        A `shared` port may be open in other processes too: the kernel divides the connections among them.
        """
        limit = self._intake.limits.message_bytes
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(shared)),
                # What is over our limit but under this cap is refused by name; over the cap gRPC ends the call.
                ("grpc.max_receive_message_length", 4 * limit + 65536),
                ("grpc.max_send_message_length", -1),
            ]
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        if self._registry is not None:
            server.add_generic_rpc_handlers((self._registry.handlers(),))
        self._add_standard_services(server)
        port = _bind(server, address)
        await server.start()
        if self._registry is not None:
            await self._registry.registry.start()
        self._server = server
        await self.set_serving(True)
        host = address.rpartition(":")[0]
        return address if address.startswith("unix:") else f"{host}:{port}"

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the port."""
        if self._server is not None:
            await self.set_serving(False)
            server, self._server = self._server, None
            await server.stop(grace)
            if self._registry is not None:
                await self._registry.registry.close()

    async def set_serving(self, serving: bool) -> None:
        """Say to `grpc.health.v1` clients whether the gateway serves."""
        from grpc_health.v1 import health_pb2

        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        if self._health_service is not None:
            for service in ("", _SERVICE):
                await self._health_service.set(service, status)

    async def send_event(self, message: bytes, context: Any) -> Ack:
        """Answer SendEvent."""
        baseline = self._baseline(context)
        try:
            ack = await self._intake.event(message)
        except DrainingError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except InputError as error:
            await self._abort(context, error.code, error.message)
        if ack.errors and not ack.event_ids:
            codes = {error.code for error in ack.errors}
            for code in (Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING):
                if codes == {code}:
                    await self._abort(context, code, ack.errors[0].message)
        ack.middleware_stats.CopyFrom(self._intake.stats_since(baseline))
        return ack

    async def stream_events(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answer StreamEvents: one Ack for each batch, in order."""
        if self._streams >= self._intake.limits.streams:
            limit = self._intake.limits.streams
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{limit} streams are open; close some")
        self._streams += 1
        baseline = self._baseline(context)
        acks: asyncio.Queue[asyncio.Future[Ack] | None] = asyncio.Queue(self._intake.limits.stream_batches)
        reader = asyncio.ensure_future(self._read(requests, acks))
        try:
            while (answer := await acks.get()) is not None:
                ack = await answer
                ack.middleware_stats.CopyFrom(self._intake.stats_since(baseline))
                await context.write(ack)
            await reader
        finally:
            self._streams -= 1
            reader.cancel()

    async def health(self, request: HealthRequest, context: Any) -> HealthResponse:
        """Answer Health with the state of every part of the pipeline."""
        health = await self._health()
        components = {
            name: ComponentHealth(healthy=healthy, message=message)
            for name, (healthy, message) in health.components.items()
        }
        return HealthResponse(
            healthy=health.healthy,
            components=components,
            uptime_seconds=int(time.monotonic() - self._started),
            events_processed=health.processed,
        )

    async def _read(self, requests: AsyncIterator[bytes], acks: asyncio.Queue[asyncio.Future[Ack] | None]) -> None:
        turns = Turns()
        try:
            async for message in requests:
                await acks.put(asyncio.ensure_future(await self._intake.begin(message, turns)))
        except Exception:
            await acks.put(None)
            raise
        await acks.put(None)

    async def _abort(self, context: Any, code: Code, message: str) -> None:
        status = _STATUS.get(code, grpc.StatusCode.INVALID_ARGUMENT)
        hint = (("grpc-retry-pushback-ms", _RETRY_AFTER_MS),) if code is Code.BUFFER_FULL else ()
        await context.abort(status, f"{code}: {message}", trailing_metadata=hint)

    def _baseline(self, context: Any) -> Counts:
        """Return the counters as they were when this connection first called; the latest 1,024 are remembered."""
        peer = context.peer()
        if peer not in self._baselines:
            self._baselines[peer] = self._intake.counts
            if len(self._baselines) > 1024:
                self._baselines.popitem(last=False)
        return self._baselines[peer]

    def _handlers(self) -> Any:
        methods = {
            "SendEvent": grpc.unary_unary_rpc_method_handler(
                self.send_event, response_serializer=Ack.SerializeToString
            ),
            "StreamEvents": grpc.stream_stream_rpc_method_handler(
                self.stream_events, response_serializer=Ack.SerializeToString
            ),
            "Health": grpc.unary_unary_rpc_method_handler(
                self.health, HealthRequest.FromString, HealthResponse.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    def _add_standard_services(self, server: grpc.aio.Server) -> None:
        from grpc_health.v1 import health, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection

        self._health_service = health.aio.HealthServicer()  # type: ignore[attr-defined] # its stub lags behind
        health_pb2_grpc.add_HealthServicer_to_server(self._health_service, server)
        services = [_SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        if self._registry is not None:
            services.append("polku.v1.PluginRegistry")
        reflection.enable_server_reflection(services, server)


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingError("grpc_addr", address, f"cannot be opened ({error}); is the port in use?") from None
    if port == 0:
        raise SettingError("grpc_addr", address, "cannot be opened; is the port in use?")
    return port
