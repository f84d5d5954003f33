"""The doors of one intake, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct, field

from polku.aio.tasks import TaskSet
from polku.errors import PolkuError, SettingError
from polku.gateway.addresses import Addresses, Doors
from polku.gateway.certificates import Certificates
from polku.gateway.exposure import check_exposure, exposure
from polku.gateway.grpc_server import choose
from polku.gateway.intake import Intake
from polku.gateway.intake_statistics import SecurityFiles
from polku.gateway.reservation import Reservation, moved
from polku.health import Health
from polku.hooks import close_each
from polku.log import RepeatedLog

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from polku.external.registry_service import RegistryService
    from polku.gateway.grpc.server import NativeServer
    from polku.gateway.grpcio import GatewayServer
    from polku.gateway.http.answer import Metrics
    from polku.gateway.http.server import HttpServer
    from polku.gateway.listen import Queue
    from polku.security.authenticator import Authenticator

Server: TypeAlias = "GatewayServer | NativeServer | HttpServer"

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_STAYS = "clients that are connected stay with their lane: grpcio's server cannot ask some of them to connect again"
_READINESS_SECONDS = 1.0  # between two looks at whether the pipeline takes events


class Security(Struct, frozen=True):
    """What keeps strangers out of the ports; nothing here takes the gateway out of service."""

    doors: Doors
    certificates: Certificates | None
    authenticator: Authenticator | None

    @property
    def is_broken(self) -> bool:
        """Whether a file that has changed could not be used."""
        return any(part is not None and part.fault for part in (self.certificates, self.authenticator))

    @property
    def files(self) -> SecurityFiles:
        """The state of the files, for the statistics."""
        end = None if self.certificates is None else self.certificates.expires
        token_ends_at = 0.0 if self.authenticator is None else self.authenticator.token_ends_at
        return SecurityFiles(0.0 if end is None else end.timestamp(), self.is_broken, token_ends_at)

    @property
    def complaint(self) -> str:
        """What is to be said in health; empty where all is well."""
        faults = [part.fault for part in (self.certificates, self.authenticator) if part is not None and part.fault]
        open_to_others = "" if self.doors.insecure else exposure(self.doors)
        return "; ".join([*faults, *([open_to_others] if open_to_others else [])])


class _Ports(Struct):
    """Ports that were opened together: their servers by the names of their settings."""

    doors: Doors
    servers: dict[str, Server] = field(default_factory=dict)
    security: Security | None = None
    tasks: TaskSet = field(default_factory=lambda: TaskSet("gateway"))

    async def close(self, grace: float) -> None:
        await self.tasks.close()
        servers = self.servers.values()
        await close_each([(f"the {type(server).__name__}", partial(server.stop, grace)) for server in servers])


class Gateway:
    """Serve one intake over gRPC, HTTP, both or neither."""

    def __init__(
        self,
        intake: Intake,
        health: Callable[[], Awaitable[Health]],
        registry: RegistryService | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._intake = intake
        self._registry = registry
        if registry is not None:
            intake.count_failures(registry.failures)
        self._health = health
        self._metrics = metrics
        self._ports: _Ports | None = None
        self._leaving: list[_Ports] = []
        self._addresses = Addresses()
        self._background = TaskSet("ports that were opened again")
        self._is_stopping = False
        intake.count_connections = self._connections
        intake.look_at_files = self._files

    @property
    def addresses(self) -> Addresses:
        """Where the doors are open."""
        return self._addresses

    @property
    def version(self) -> int:
        """Of the doors that are open; none are: -1."""
        return -1 if self._ports is None else self._ports.doors.version

    async def open(self, doors: Doors, reserved: Reservation | None = None) -> Addresses:
        """Open the ports and return the bound addresses; raises `SettingError` where one cannot be had."""
        queues = {} if reserved is None else reserved.ports
        self._ports, self._addresses = await self._open(doors, queues)
        return self._addresses

    async def exchange(self, doors: Doors, reserved: Reservation | None = None) -> Addresses:
        """Open the ports again for a later version of the doors; raises `SettingError`, and all stays as it was.

        Both servers of an address take its connections until the old one takes no more, so that no client is refused;
        what was `reserved` is opened at other addresses. Clients of the old servers are asked to connect again, and
        have some time for what they have begun.
        """
        before = self._ports
        if before is None or doors.version <= before.doors.version:
            return self._addresses
        check_doors(doors)
        moving = moved(before.doors, doors)
        queues: dict[str, Queue] = {} if reserved is None else dict(reserved.ports)
        for name, server in before.servers.items():
            if name not in moving and not _is_grpcio(server) and server.listener is not None:
                queues[name] = server.listener
        self._ports, self._addresses = await self._open(doors, queues)
        self._leaving.append(before)
        self._background.start("ports", self._leave(before, staying=doors.addresses.keys() - moving.keys()))
        return self._addresses

    async def _leave(self, ports: _Ports, staying: Collection[str]) -> None:
        """Have servers leave; those of addresses that are `staying` have others beside them, at the same queue."""
        servers = ports.servers.items()
        leaving = [server.leave(queued=name not in staying) for name, server in servers if not _is_grpcio(server)]
        await asyncio.gather(*leaving)
        await ports.tasks.close()
        self._leaving.remove(ports)

    async def _open(self, doors: Doors, queues: Mapping[str, Queue]) -> tuple[_Ports, Addresses]:
        check_exposure(doors)
        ports = _Ports(doors)
        try:
            certificates = self._certificates(doors, ports.tasks)
            authenticator = self._authenticator(doors, ports.tasks)
            ports.security = Security(doors, certificates, authenticator)
            health = self._health_with(ports.security)
            bound: dict[str, str] = {}
            for name, address in doors.addresses.items():
                server = self._server(name, doors, health, authenticator, ports.tasks)
                ports.servers[name] = server
                options: dict[str, Any] = {"shared": doors.shared, "certificates": certificates}
                if name in queues:
                    options["beside"] = queues[name]
                opened = await server.start(address, name, **options)
                bound[name.removesuffix("_addr")] = opened
        except BaseException:
            await ports.close(0)
            raise
        return ports, Addresses(**bound)

    def _server(
        self,
        name: str,
        doors: Doors,
        health: Callable[[], Awaitable[Health]],
        authenticator: Authenticator | None,
        tasks: TaskSet,
    ) -> Server:
        """Return the server for an address of this name."""
        if name in ("http_addr", "otlp_http_addr"):
            from polku.gateway.http.server import HttpServer

            return HttpServer(self._intake, health, doors.http_token, authenticator, doors.origins, self._metrics)
        registry = self._registry if name == "grpc_addr" else None
        server = choose(doors)(self._intake, health, registry, authenticator)
        watch = partial(self._watch_readiness, server, tasks, f"readiness {name}", tells_parts=authenticator is None)
        tasks.keep_alive(f"readiness {name}", watch)
        return server

    def _files(self) -> SecurityFiles:
        security = None if self._ports is None else self._ports.security
        return SecurityFiles() if security is None else security.files

    def _connections(self) -> dict[str, int]:
        """Return how many connections are open, by protocol; those of grpcio's server are not known."""
        counts: dict[str, int] = {}
        for server in self._servers():
            if (count := server.connections) is not None:
                counts[server.protocol] = counts.get(server.protocol, 0) + count
        return counts

    def staying(self) -> dict[str, int]:
        """Return how many connections have not been asked to leave, by the names of the settings of addresses.

        Those of grpcio's server are not known, and it cannot ask them.
        """
        counts: dict[str, int] = {}
        for name, server in ({} if self._ports is None else self._ports.servers).items():
            if _is_grpcio(server):
                _REPEATED.info(name, "%s: %s", name, _STAYS)
            else:
                counts[name] = server.staying
        return counts

    def shed(self, counts: Mapping[str, int], seconds: float) -> None:
        """Ask that many connections of each address to go on elsewhere, within some seconds."""
        for name, server in ({} if self._ports is None else self._ports.servers).items():
            if not _is_grpcio(server) and counts.get(name):
                server.shed(counts[name], seconds)

    async def leave(self) -> None:
        """Take no connections any more, and return when those that there are have come to their end.

        Each is asked to go on elsewhere, and has some time for what it has begun.
        """
        await self.stop_serving()
        await asyncio.gather(*(server.leave(queued=True) for server in self._servers() if not _is_grpcio(server)))

    async def stop_serving(self) -> None:
        """Tell clients that ask for the health that the gateway does not serve any more."""
        self._is_stopping = True
        for server in self._servers():
            await server.set_serving(False)

    async def close(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the ports."""
        await self._background.close()
        open_ports, self._ports, self._leaving = self._all(), None, []
        await asyncio.gather(*(ports.close(grace) for ports in open_ports))

    def _all(self) -> list[_Ports]:
        return [*self._leaving, *([] if self._ports is None else [self._ports])]

    def _servers(self) -> list[Server]:
        return [server for ports in self._all() for server in ports.servers.values()]

    async def _watch_readiness(
        self, server: GatewayServer | NativeServer, tasks: TaskSet, task: str, *, tells_parts: bool
    ) -> None:
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
            tasks.works(task)

    def _certificates(self, doors: Doors, tasks: TaskSet) -> Certificates | None:
        if doors.tls is None or not doors.addresses:
            return None
        certificates = Certificates(doors.tls)
        tasks.keep_alive("certificates", certificates.watch)
        return certificates

    def _authenticator(self, doors: Doors, tasks: TaskSet) -> Authenticator | None:
        if doors.tokens is None or not doors.addresses:
            return None
        from polku.security.authenticator import Authenticator

        authenticator = Authenticator(doors.tokens, stamp=doors.stamp)
        tasks.keep_alive("tokens", authenticator.watch)
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


def check_doors(doors: Doors) -> None:
    """Raise `SettingError` where ports that are open cannot be opened again so: before anything is changed."""
    if doors.door == "grpcio":
        raise SettingError("POLKU_DOOR", "grpcio", "cannot open its port again while it runs; restart it")
    check_exposure(doors)
    if not doors.addresses:
        return
    if doors.tls is not None:
        Certificates(doors.tls)
    if doors.tokens is not None:
        from polku.security.authenticator import Authenticator

        Authenticator(doors.tokens, stamp=doors.stamp)


def _is_grpcio(server: Server) -> TypeIs[GatewayServer]:
    return not hasattr(server, "leave")
