"""The plugin's gRPC server: one service, the standard health service and reflection, on one port."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from polku.errors import SettingError
from polku.plugin.callers import CallerCheck
from polku.plugin.service import Service
from polku.security.client_tls import Certificate

_MESSAGE_BYTES = 64 * 1024 * 1024


class PluginServer:
    """Serve one plugin."""

    def __init__(self, service: Service, check: CallerCheck | None = None) -> None:
        self._service = service
        self._check = check
        self._server: Any = None

    async def start(self, address: str, certificate: Certificate | None = None) -> str:
        """Start the component, open the port, and return where; raises `SettingError` where it cannot be had."""
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MESSAGE_BYTES)]
        server = grpc.aio.server(interceptors=[self._check] if self._check else [], options=options)
        handler = grpc.method_handlers_generic_handler(self._service.service, self._service.handlers())
        server.add_generic_rpc_handlers((handler,))
        await self._add_standard_services(server)
        port = _bind(server, address, certificate)
        await self._service.open()
        await server.start()
        self._server = server
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds, and close the component."""
        self._service.stop()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace)
        await self._service.close()

    async def _add_standard_services(self, server: Any) -> None:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection

        standard = health.aio.HealthServicer()  # type: ignore[attr-defined] # its stub lags behind
        health_pb2_grpc.add_HealthServicer_to_server(standard, server)
        for name in ("", self._service.service):
            await standard.set(name, health_pb2.HealthCheckResponse.SERVING)
        names = (self._service.service, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)


def _bind(server: Any, address: str, certificate: Certificate | None) -> int:
    try:
        if certificate is None:
            port: int = server.add_insecure_port(address)
        else:
            chain, key = certificate.read()
            port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
    except ConnectionError as error:
        raise SettingError("certificate", "", str(error)) from None
    except RuntimeError as error:
        raise SettingError("address", address, f"cannot be opened ({error}); is the port in use?") from None
    if port == 0:
        raise SettingError("address", address, "cannot be opened; is the port in use?")
    return port
