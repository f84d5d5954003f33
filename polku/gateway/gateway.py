"""The doors of one intake, opened and closed together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from polku.aio.tasks import TaskSet
from polku.gateway.addresses import Addresses, Doors
from polku.gateway.certificates import Certificates
from polku.gateway.grpc_server import choose
from polku.gateway.intake import Intake
from polku.health import Health
from polku.hooks import close_each

if TYPE_CHECKING:
    from polku.external.registry_service import RegistryService
    from polku.gateway.grpc.server import NativeServer
    from polku.gateway.grpcio import GatewayServer
    from polku.gateway.http.server import HttpServer


class Gateway:
    """Serve one intake over gRPC, HTTP, both or neither."""

    def __init__(
        self, intake: Intake, health: Callable[[], Awaitable[Health]], registry: RegistryService | None = None
    ) -> None:
        self._intake = intake
        self._registry = registry
        self._health = health
        self._servers: list[GatewayServer | NativeServer | HttpServer] = []
        self._addresses = Addresses()
        self._tasks = TaskSet("gateway")

    @property
    def addresses(self) -> Addresses:
        """Where the doors are open."""
        return self._addresses

    async def open(self, doors: Doors) -> Addresses:
        """Open the ports and return the bound addresses; raises `SettingError` where one cannot be had."""
        grpc = http = None
        try:
            certificates = self._certificates(doors)
            if doors.grpc_addr is not None:
                server = choose(doors)(self._intake, self._health, self._registry)
                self._servers.append(server)
                grpc = await server.start(doors.grpc_addr, shared=doors.shared, certificates=certificates)
            if doors.http_addr is not None:
                from polku.gateway.http.server import HttpServer

                self._servers.append(http_server := HttpServer(self._intake, self._health, doors.http_token))
                http = await http_server.start(doors.http_addr, shared=doors.shared, certificates=certificates)
        except BaseException:
            await self.close(0)
            raise
        self._addresses = Addresses(grpc, http)
        return self._addresses

    async def stop_serving(self) -> None:
        """Tell clients that ask for the health that the gateway does not serve any more."""
        for server in self._servers:
            await server.set_serving(False)

    async def close(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the ports."""
        servers, self._servers = self._servers, []
        await self._tasks.close()
        await close_each([(f"the {type(server).__name__}", partial(server.stop, grace)) for server in servers])

    def _certificates(self, doors: Doors) -> Certificates | None:
        if doors.tls is None or (doors.grpc_addr is None and doors.http_addr is None):
            return None
        certificates = Certificates(doors.tls)
        self._tasks.keep_alive("certificates", certificates.watch)
        return certificates
