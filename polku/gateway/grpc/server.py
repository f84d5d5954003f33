"""The gRPC port on our own HTTP/2 server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from polku.aio.tasks import TaskSet
from polku.gateway.certificates import H2, Certificates
from polku.gateway.grpc.calls import BatchMethod, Method, StreamMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.grpc.send_event import SendEvent
from polku.gateway.grpc.standard import HealthService, Reflection, service_methods
from polku.gateway.grpc.stream_events import StreamEvents
from polku.gateway.grpc_status import Baselines
from polku.gateway.intake import Intake
from polku.gateway.listen import Listener, Queue, context_of, listen
from polku.gateway.otlp.grpc import OtlpMethods
from polku.gateway.places import Places, connections_within
from polku.gateway.shedding import shed, staying
from polku.health import Health, health_response
from polku.http2.limits import ConnectionLimits
from polku.limits import Limits
from polku.v1.gateway_pb2 import HealthRequest, HealthResponse

if TYPE_CHECKING:
    from polku.external.registry_service import RegistryService
    from polku.security.authenticator import Authenticator

_SERVICE = "polku.v1.Gateway"
_HEALTH = "grpc.health.v1.Health"
_OPEN = (f"/{_HEALTH}/".encode(), b"/polku.v1.PluginRegistry/")  # plugins have a token of their own
_LOOK_SECONDS = 1.0  # between two looks for connections that take too long
_IDLE_SECONDS = 3600.0  # without a call: the connection ends, and the client opens it again with its next one
_CATCH_UP_SECONDS = 0.1
_MAKE_ROOM_SECONDS = 5.0  # idle for so long, a connection makes room for another one where the port is full
_LEAVE_SECONDS = 5.0  # beyond the grace of connections that leave
_GOAWAY_SECONDS = 0.05  # for what clients send before they read the first GOAWAY; later calls they send again elsewhere


def largest_message(limits: Limits) -> int:
    """Return the bytes of a message that is read: what is over the limit is then refused by name, its stream stays."""
    return 4 * limits.message_bytes + 65_536


def connection_limits(limits: Limits) -> ConnectionLimits:
    """Return the limits of one connection to a gateway with these limits."""
    unfinished = max(ConnectionLimits().unfinished, 2 * largest_message(limits))
    return ConnectionLimits(
        streams=limits.connection_calls,
        unfinished=unfinished,
        address_unfinished=2 * unfinished,
        port_unfinished=8 * unfinished,
        idle_seconds=_IDLE_SECONDS,
        age_seconds=limits.connection_age_seconds,
    )


class NativeServer:
    """Serve one intake over gRPC."""

    protocol = "grpc"

    def __init__(
        self,
        intake: Intake,
        health: Callable[[], Awaitable[Health]],
        registry: RegistryService | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._intake = intake
        self._authenticator = authenticator
        self._health = health
        self._registry = registry
        if registry is not None:
            registry.authenticator = authenticator
        self._started = time.monotonic()
        baselines = Baselines(intake)
        self._send_event = SendEvent(intake, baselines)
        self._stream_events = StreamEvents(intake, baselines)
        self._standard: HealthService | None = None
        self._port: GrpcPort | None = None
        self._limits = connection_limits(intake.limits)
        self._server: Listener | None = None
        self._tasks = TaskSet("gRPC server")

    @property
    def connections(self) -> int | None:
        """How many connections are open; None where that is not known."""
        return None if self._port is None else len(self._port.places)

    async def start(
        self,
        address: str,
        field: str = "grpc_addr",
        *,
        shared: bool = False,
        certificates: Certificates | None = None,
        beside: Queue | None = None,
    ) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` about `field` where it cannot be had.

        A `shared` port may be open in other processes too: the kernel divides the connections among them. With
        `certificates` it speaks TLS alone. `beside` an open port it takes over what comes to that one.
        """
        places = Places(
            "gRPC connections",
            total=connections_within(self._intake.limits.grpc_connections),
            each=self._intake.limits.address_connections,
            idle_seconds=_MAKE_ROOM_SECONDS,
        )
        largest = largest_message(self._intake.limits)
        methods = self._all_methods()
        self._port = port = GrpcPort(
            methods,
            self._limits,
            message_limit=largest,
            plain_limit=self._intake.limits.message_bytes,
            places=places,
            authenticator=self._authenticator,
            open_paths=frozenset(path for path in methods if path.startswith(_OPEN)),
        )
        tls = context_of(certificates, H2)
        factory = partial(GrpcConnection, port)
        self._server, bound = await listen(factory, field, address, shared=shared, tls=tls, beside=beside)
        if self._registry is not None:
            await self._registry.registry.start()
        self._tasks.keep_alive("times", self._watch_times)
        return bound

    @property
    def listener(self) -> Listener | None:
        """The open port."""
        return self._server

    async def leave(self, *, queued: bool) -> None:
        """Take no connections any more, and return when those that there are have come to their end.

        Each is asked to go on elsewhere (GOAWAY); streams end when all that has come of them is answered, and calls
        that take longer have the grace of a connection that reaches its age. With `queued` connections that wait at the
        port are taken first: nobody else takes them.
        """
        if self._server is not None:
            server, self._server = self._server, None
            server.leave(queued=queued)
        ended = time.monotonic() + self._limits.age_grace_seconds + _LEAVE_SECONDS
        while time.monotonic() < ended and self._connections:
            for connection in self._connections:
                connection.leave()
            await asyncio.wait([connection.gone for connection in self._connections], timeout=_LOOK_SECONDS)
        for connection in list(self._connections):
            connection.abort()
        await self._tasks.close()

    @property
    def staying(self) -> int:
        """How many connections have not been asked to leave."""
        return staying(self._connections)

    def shed(self, count: int, seconds: float) -> None:
        """Ask that many connections to go on elsewhere within some seconds; each ends as one that reaches its age."""
        self._tasks.start("connections that leave", shed(list(self._connections), count, seconds))

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the port."""
        if self._port is None:
            return
        server, self._server = self._server, None
        await self.set_serving(False)
        self._send_event.is_stopping = True
        if server is not None:
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

    async def set_serving(self, serving: bool, parts: Mapping[str, bool] | None = None) -> None:
        """Tell `grpc.health.v1` clients whether the gateway serves, and which parts are well."""
        if self._standard is not None:
            self._standard.set_serving(serving, parts)

    @property
    def _connections(self) -> set[GrpcConnection]:
        return set() if self._port is None else self._port.connections

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
            from polku.external.registry_service import SERVICE

            services.append(SERVICE)
            methods |= service_methods(SERVICE, self._registry.methods())
        methods |= OtlpMethods(self._intake).methods()
        self._standard = HealthService([_SERVICE])
        return methods | self._standard.methods() | Reflection(services).methods()

    async def _answer_health(self, request: HealthRequest, context: object) -> HealthResponse:
        health = await self._health()
        shown = health.public() if self._authenticator is None else health  # with one only those that it knows get here
        return health_response(shown, time.monotonic() - self._started)

    async def _watch_times(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)
            if time.monotonic() - before > 2 * _LOOK_SECONDS:  # the loop was blocked: read first what came meanwhile
                await asyncio.sleep(_CATCH_UP_SECONDS)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.check_times(now)
            self._tasks.works("times")
