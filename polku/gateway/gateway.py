"""The doors of one intake, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from polku.aio.tasks import TaskSet
from polku.errors import PolkuError
from polku.gateway.addresses import Addresses, Doors
from polku.gateway.certificates import Certificates
from polku.gateway.exposure import check_exposure, exposure
from polku.gateway.grpc_server import choose
from polku.gateway.intake import Intake
from polku.health import Health
from polku.hooks import close_each

if TYPE_CHECKING:
    from polku.external.registry_service import RegistryService
    from polku.gateway.grpc.server import NativeServer
    from polku.gateway.grpcio import GatewayServer
    from polku.gateway.http.server import HttpServer
    from polku.security.authenticator import Authenticator

_READINESS_SECONDS = 1.0  # between two looks at whether the pipeline takes events


class Security(NamedTuple):
    """What keeps strangers out of the ports; nothing here takes the gateway out of service."""

    doors: Doors
    certificates: Certificates | None
    authenticator: Authenticator | None

    @property
    def is_broken(self) -> bool:
        """Whether a file that has changed could not be used."""
        return any(part is not None and part.fault for part in (self.certificates, self.authenticator))

    @property
    def complaint(self) -> str:
        """What is to be said in health; empty where all is well."""
        faults = [part.fault for part in (self.certificates, self.authenticator) if part is not None and part.fault]
        open_to_others = "" if self.doors.insecure else exposure(self.doors)
        return "; ".join([*faults, *([open_to_others] if open_to_others else [])])


class Gateway:
    """Serve one intake over gRPC, HTTP, both or neither."""

    def __init__(
        self, intake: Intake, health: Callable[[], Awaitable[Health]], registry: RegistryService | None = None
    ) -> None:
        self._intake = intake
        self._registry = registry
        if registry is not None:
            intake.count_failures(registry.failures)
        self._health = health
        self._servers: list[GatewayServer | NativeServer | HttpServer] = []
        self._addresses = Addresses()
        self._tasks = TaskSet("gateway")
        self._is_stopping = False
        intake.count_connections = self._connections

    @property
    def addresses(self) -> Addresses:
        """Where the doors are open."""
        return self._addresses

    async def open(self, doors: Doors) -> Addresses:
        """Open the ports and return the bound addresses; raises `SettingError` where one cannot be had."""
        check_exposure(doors)
        try:
            certificates = self._certificates(doors)
            authenticator = self._authenticator(doors)
            health = self._health_with(Security(doors, certificates, authenticator))
            bound: dict[str, str] = {}
            for name, address in doors.addresses.items():
                server = self._server(name, doors, health, authenticator)
                self._servers.append(server)
                opened = await server.start(address, name, shared=doors.shared, certificates=certificates)
                bound[name.removesuffix("_addr")] = opened
        except BaseException:
            await self.close(0)
            raise
        self._addresses = Addresses(**bound)
        return self._addresses

    def _server(
        self,
        name: str,
        doors: Doors,
        health: Callable[[], Awaitable[Health]],
        authenticator: Authenticator | None,
    ) -> GatewayServer | NativeServer | HttpServer:
        """Return the server for an address of this name."""
        if name in ("http_addr", "otlp_http_addr"):
            from polku.gateway.http.server import HttpServer

            return HttpServer(self._intake, health, doors.http_token, authenticator, doors.origins)
        registry = self._registry if name == "grpc_addr" else None
        server = choose(doors)(self._intake, health, registry, authenticator)
        self._tasks.keep_alive(
            f"readiness {name}",
            partial(self._watch_readiness, server, f"readiness {name}", tells_parts=authenticator is None),
        )
        return server

    def _connections(self) -> dict[str, int]:
        """Return how many connections are open, by protocol; those of grpcio's server are not known."""
        counts: dict[str, int] = {}
        for server in self._servers:
            if (count := server.connections) is not None:
                counts[server.protocol] = counts.get(server.protocol, 0) + count
        return counts

    async def stop_serving(self) -> None:
        """Tell clients that ask for the health that the gateway does not serve any more."""
        self._is_stopping = True
        for server in self._servers:
            await server.set_serving(False)

    async def close(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the ports."""
        servers, self._servers = self._servers, []
        await self._tasks.close()
        await close_each([(f"the {type(server).__name__}", partial(server.stop, grace)) for server in servers])

    async def _watch_readiness(self, server: GatewayServer | NativeServer, task: str, *, tells_parts: bool) -> None:
        """Have `grpc.health.v1` say what `/health/ready` says; while nobody can tell, what it said before.

        It `tells_parts` by their names where all clients may know these: nobody has to authenticate for that service.
        """
        while True:
            await asyncio.sleep(_READINESS_SECONDS)
            with contextlib.suppress(PolkuError):
                health = await self._health()
                if not self._is_stopping:
                    parts = {name: healthy for name, (healthy, _) in health.components.items()}
                    await server.set_serving(health.ready, parts if tells_parts else None)
            self._tasks.works(task)

    def _certificates(self, doors: Doors) -> Certificates | None:
        if doors.tls is None or not doors.addresses:
            return None
        certificates = Certificates(doors.tls)
        self._tasks.keep_alive("certificates", certificates.watch)
        return certificates

    def _authenticator(self, doors: Doors) -> Authenticator | None:
        if doors.tokens is None or not doors.addresses:
            return None
        from polku.security.authenticator import Authenticator

        authenticator = Authenticator(doors.tokens, stamp=doors.stamp)
        self._tasks.keep_alive("tokens", authenticator.watch)
        self._intake.count_failures(authenticator.failures)
        return authenticator

    def _health_with(self, security: Security) -> Callable[[], Awaitable[Health]]:
        """Return what tells the pipeline's health and, where there is something to say, that of its ports' security."""

        async def health() -> Health:
            found = await self._health()
            text = security.complaint
            if not text:
                return found
            return found._replace(components={**found.components, "security": (not security.is_broken, text)})

        return health
