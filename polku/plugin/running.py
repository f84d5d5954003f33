"""Run a plugin: until a signal comes, or beside the rest of a program."""

from __future__ import annotations

import asyncio
import signal
from types import TracebackType

from polku.aio import loop_thread
from polku.aio.loops import new_event_loop
from polku.log_format import say
from polku.plugin.callers import CallerCheck
from polku.plugin.registration import Registrar, Registration
from polku.plugin.server import PluginServer
from polku.plugin.service import Service
from polku.runtime.serving import tune_process
from polku.security.client_tls import Certificate


def run(
    service: Service,
    address: str,
    certificate: Certificate | None,
    register: Registration | None,
    grace: float,
    check: CallerCheck | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish within `grace` seconds."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(service, address, certificate, register, grace, check))


async def _serve(
    service: Service,
    address: str,
    certificate: Certificate | None,
    register: Registration | None,
    grace: float,
    check: CallerCheck | None = None,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    plugin = _Serving(service, check)
    bound = await plugin.start(address, certificate, register)
    tune_process()
    say(f"{service.info.name}: listening on {bound}")
    await stop.wait()
    say(f"{service.info.name}: stopping")
    await plugin.stop(grace)


class RunningPlugin:
    """A plugin that serves beside the rest of the program; `address` is where, as a pipeline wants it."""

    def __init__(
        self,
        service: Service,
        address: str,
        certificate: Certificate | None,
        register: Registration | None,
        check: CallerCheck | None = None,
    ) -> None:
        self._plugin = _Serving(service, check)
        bound = loop_thread.submit(self._plugin.start(address, certificate, register)).result()
        scheme = "" if bound.startswith("unix:") else "https://" if certificate else "http://"
        self.address = f"{scheme}{bound}"

    def stop(self, grace: float = 5.0) -> None:
        """Unregister, finish open calls within `grace` seconds, and close."""
        loop_thread.submit(self._plugin.stop(grace)).result()

    def __enter__(self) -> RunningPlugin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Serving:
    """A server, and the registration of it where one is wanted."""

    def __init__(self, service: Service, check: CallerCheck | None) -> None:
        self._service = service
        self._check = check
        self._server = PluginServer(service, check)
        self._registrar: Registrar | None = None

    async def start(self, address: str, certificate: Certificate | None, register: Registration | None) -> str:
        bound = await self._server.start(address, certificate)
        if register is not None:
            self._registrar = Registrar(
                register, self._service.info, bound, self._check, encrypted=certificate is not None
            )
            self._registrar.start()
        return bound

    async def stop(self, grace: float) -> None:
        if self._registrar is not None:
            await self._registrar.stop()
        await self._server.stop(grace)
