"""Make a plugin known to a gateway, and keep it known: register, send heartbeats, unregister at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty

from polku import checks
from polku.aio.tasks import TaskSet
from polku.errors import PlanError
from polku.external.caller import CALL_TOKEN
from polku.external.connection import PluginConnection
from polku.log_format import say
from polku.plugin.callers import CallerCheck
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret
from polku.v1.plugin_pb2 import (
    HeartbeatRequest,
    HeartbeatResponse,
    PluginInfo,
    RegisterRequest,
    RegisterResponse,
    UnregisterRequest,
)

_TIMEOUT = 10.0
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Registration:
    """Say which gateway to register with: its address, and the `token` that it wants.

    `address` is where the gateway reaches the plugin, if that is not where it listens (behind a proxy, in a
    container). A sign of life is sent every `heartbeat` seconds; where the gateway does not know the plugin any more,
    it registers again.
    """

    gateway: str
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)
    address: str | None = field(default=None, kw_only=True)
    heartbeat: float = field(default=5.0, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.connection()
        checks.positive("Registration", "heartbeat", self.heartbeat)
        if self.address is not None and not isinstance(self.address, str):
            raise PlanError(f"address={self.address!r} must be a string, as host:port", where="Registration")

    def connection(self) -> PluginConnection:
        """Return the way to the gateway."""
        return PluginConnection(
            where="Registration",
            address=self.gateway,
            timeout=_TIMEOUT,
            root_certificates=self.root_certificates,
            certificate=self.certificate,
            token=self.token,
        )


class Registrar:
    """Keep one plugin registered."""

    def __init__(
        self, config: Registration, info: PluginInfo, bound: str, check: CallerCheck | None = None, *, encrypted: bool
    ) -> None:
        self._config = config
        self._check = check
        self._info = info
        self._address = config.address or _reachable(bound, config, encrypted)
        self._channel: Any = None
        self._tasks = TaskSet(f"plugin {info.name!r}")
        self._plugin_id = ""

    def start(self) -> None:
        """Begin to register; a gateway that is down is tried again."""
        connection = self._config.connection()
        tls = connection.tls()
        self._channel = connection.open(None if tls is None else tls.pems())
        self._tasks.keep_alive("registration", self._keep)

    async def stop(self) -> None:
        """Unregister, where the gateway answers within a second."""
        await self._tasks.close()
        if self._plugin_id:
            with contextlib.suppress(grpc.RpcError):
                request = UnregisterRequest(plugin_id=self._plugin_id)
                await self._call("Unregister", request, Empty, timeout=1.0)
        if self._channel is not None:
            await self._channel.close()

    async def _keep(self) -> None:
        pause, said = 0.5, ""
        while True:
            try:
                complaint = await self._register()
                if not complaint:
                    pause, said = 0.5, ""
                    say(f"{self._info.name}: registered with {self._config.gateway}")
                    complaint = await self._beat()
            except grpc.aio.AioRpcError as error:
                complaint = f"{error.code().name}: {error.details()}"
            self._plugin_id = ""
            if complaint != said:
                said = complaint
                say(f"{self._info.name}: not registered with {self._config.gateway}: {complaint}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _register(self) -> str:
        """Register, and return why the gateway does not want the plugin, or nothing."""
        request = RegisterRequest(info=self._info, address=self._address)
        answer = await self._call("Register", request, RegisterResponse)
        self._plugin_id = answer.plugin_id if answer.accepted else ""
        return "" if answer.accepted else str(answer.message or "refused without a reason")

    async def _beat(self) -> str:
        """Send heartbeats until the gateway does not know the plugin any more."""
        while True:
            await asyncio.sleep(self._config.heartbeat)
            request = HeartbeatRequest(plugin_id=self._plugin_id)
            if not (await self._call("Heartbeat", request, HeartbeatResponse)).acknowledged:
                return "it does not know the plugin any more"

    async def _call(self, method: str, request: Any, answer: Any, timeout: float = _TIMEOUT) -> Any:
        call = self._channel.unary_unary(
            f"/polku.v1.PluginRegistry/{method}", type(request).SerializeToString, answer.FromString
        )
        metadata = self._config.connection().metadata
        if self._check is not None:
            metadata = (*metadata, (CALL_TOKEN, self._check.token))
        return await call(request, timeout=timeout, metadata=metadata)


def _reachable(bound: str, config: Registration, encrypted: bool) -> str:
    """Return the address under which the gateway reaches what listens on `bound`."""
    scheme = "https://" if encrypted else ""
    if bound.startswith("unix:"):
        return bound
    host, _, port = bound.rpartition(":")
    if host in ("0.0.0.0", "[::]", ""):
        host = _own_address(config)
    return f"{scheme}{host}:{port}"


def _own_address(config: Registration) -> str:
    """Return the address of this machine on its way to the gateway; nothing is sent."""
    host, _, port = config.connection().target().target.rpartition(":")
    if host.startswith("unix"):
        return "127.0.0.1"
    family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        own = str(probe.getsockname()[0])
    return f"[{own}]" if ":" in own else own
