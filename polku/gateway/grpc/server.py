"""The gRPC port on our own HTTP/2 server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from polku.errors import SettingError
from polku.gateway.answers import Baselines
from polku.gateway.doors import cannot_open
from polku.gateway.grpc.protocol import BatchMethod, GrpcConnection, Head, Method, StreamMethod
from polku.gateway.grpc.send_event import SendEvent
from polku.gateway.grpc.standard import HealthService, Reflection, service_methods
from polku.gateway.grpc.stream_events import StreamEvents
from polku.gateway.health import Health
from polku.gateway.intake import Intake
from polku.http2.header_blocks import Field
from polku.http2.limits import ConnectionLimits
from polku.tasks import TaskSet
from polku.v1.gateway_pb2 import ComponentHealth, HealthRequest, HealthResponse

if TYPE_CHECKING:
    from polku.gateway.registry import RegistryService

_SERVICE = "polku.v1.Gateway"
_HEALTH = "grpc.health.v1.Health"
_LOOK_SECONDS = 1.0  # between two looks for connections that take too long
_GOAWAY_SECONDS = 0.05  # what clients had sent before they read the first GOAWAY comes in this time


class NativeServer:
    """Serve one intake over gRPC."""

    def __init__(
        self, intake: Intake, health: Callable[[], Awaitable[Health]], registry: RegistryService | None = None
    ) -> None:
        self._intake = intake
        self._health = health
        self._registry = registry
        self._started = time.monotonic()
        baselines = Baselines(intake)
        self._send_event = SendEvent(intake, baselines)
        self._stream_events = StreamEvents(intake, baselines)
        self._methods: dict[bytes, Method] = {}
        self._standard: HealthService | None = None
        self._known: dict[tuple[Field, ...], Head] = {}
        self._connections: set[GrpcConnection] = set()
        # What is over the limit but under this cap is refused by name, and its stream continues.
        self._largest = 4 * intake.limits.message_bytes + 65_536
        unfinished = max(ConnectionLimits().unfinished, 2 * self._largest)
        self._limits = ConnectionLimits(streams=intake.limits.connection_calls, unfinished=unfinished)
        self._server: asyncio.Server | None = None
        self._tasks = TaskSet("gRPC server")

    async def start(self, address: str, *, shared: bool = False) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` where it cannot be had.

        A `shared` port may be open in other processes too: the kernel divides the connections among them.
        """
        self._methods = self._all_methods()
        self._server = await _listen(self._connection, address, shared)
        if self._registry is not None:
            await self._registry.registry.start()
        self._tasks.keep_alive("times", self._watch_times)
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the port."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await self.set_serving(False)
        self._send_event.is_stopping = True
        server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.drain()
        if connections:
            await asyncio.sleep(min(grace, _GOAWAY_SECONDS))
        for connection in list(self._connections):
            connection.refuse_new()
        if self._connections:
            await asyncio.wait([connection.gone for connection in self._connections], timeout=grace)
        for connection in list(self._connections):
            connection.abort()
        await self._tasks.close()
        if self._registry is not None:
            await self._registry.registry.close()

    async def set_serving(self, serving: bool) -> None:
        """Tell `grpc.health.v1` clients whether the gateway serves."""
        if self._standard is not None:
            self._standard.set_serving(serving)

    def _connection(self) -> GrpcConnection:
        return GrpcConnection(self._methods, self._limits, self._largest, self._known, self._connections)

    def _all_methods(self) -> dict[bytes, Method]:
        path = f"/{_SERVICE}/".encode()
        services = [_SERVICE, _HEALTH]
        methods: dict[bytes, Method] = {
            path + b"SendEvent": BatchMethod(self._send_event.calls),
            path + b"StreamEvents": StreamMethod(self._stream_events.stream),
        }
        own = (self._answer_health, HealthRequest.FromString, HealthResponse.SerializeToString)
        methods |= service_methods(_SERVICE, {"Health": own})
        if self._registry is not None:
            from polku.gateway.registry import SERVICE

            services.append(SERVICE)
            methods |= service_methods(SERVICE, self._registry.methods())
        self._standard = HealthService(["", _SERVICE])
        return methods | self._standard.methods() | Reflection(services).methods()

    async def _answer_health(self, request: HealthRequest, context: object) -> HealthResponse:
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

    async def _watch_times(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.check_times(now)
            self._tasks.works("times")


async def _listen(factory: Callable[[], asyncio.Protocol], address: str, shared: bool) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        if address.startswith("unix:"):
            return await loop.create_unix_server(
                factory, address.removeprefix("unix:").removeprefix("//"), backlog=1024
            )
        host, _, port = address.rpartition(":")
        if int(port) not in range(65_536):  # uvloop would take what is left of it
            raise OverflowError(f"{port} is no port")
        sock = _bound(host.strip("[]"), int(port), shared)
        return await loop.create_server(factory, sock=sock, backlog=1024)
    except OSError as error:
        raise cannot_open("grpc_addr", address, error) from None
    except (ValueError, OverflowError) as error:
        reason = f"cannot be opened ({error}); write HOST:PORT, with a free port from 0 (any) to 65535"
        raise SettingError("grpc_addr", address, reason) from None


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    """Return a socket that is bound to an address; `::` takes IPv4 too, as with grpcio."""
    family, _, _, _, name = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host in ("::", "") else 1)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock
