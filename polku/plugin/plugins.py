"""The two kinds of plugins, as their authors describe them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from polku import checks
from polku.errors import PlanError
from polku.security.configuration import secret_of
from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PLUGIN_TYPE_INGESTOR, PluginInfo

if TYPE_CHECKING:
    from polku.contracts import Emitter, Ingestor
    from polku.plugin.callers import CallerCheck
    from polku.plugin.registration import Registration
    from polku.plugin.running import RunningPlugin
    from polku.plugin.service import Service
    from polku.security.client_tls import Certificate
    from polku.security.secret import Secret

_ADDRESS = "127.0.0.1:9001"


class _Plugin:
    """What both kinds have: who they are, and how they are run."""

    info: PluginInfo

    def run(
        self,
        address: str | None = None,
        *,
        certificate: Certificate | None = None,
        register: Registration | None = None,
        token: str | Secret | None = None,
        grace: float = 5.0,
    ) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is open within `grace` seconds. Blocks; for the main thread.

        The address is `host:port` (port 0 for any) or `unix:/path`; without it the environment's
        `POLKU_PLUGIN_ADDRESS` counts, else `127.0.0.1:9001`. With a `certificate` the port is encrypted. With
        `register`, or `POLKU_PLUGIN_GATEWAY` and `POLKU_PLUGIN_TOKEN` in the environment, the plugin makes itself known
        to a gateway and keeps doing so. With a `token`, or `POLKU_PLUGIN_CALL_TOKEN`, only calls are answered that show
        it (`ExternalIngestor(token=…)`); a plugin that registers has one that its gateway alone knows. Raises
        `SettingError` where the address cannot be had.
        """
        from polku.plugin.running import run

        register = register or _registration()
        check = _check(token or secret_of(os.environ, "POLKU_PLUGIN_CALL_TOKEN"), register)
        run(self._service(), _address(address), certificate, register, grace, check)

    def start(
        self,
        address: str = "127.0.0.1:0",
        *,
        certificate: Certificate | None = None,
        register: Registration | None = None,
        token: str | Secret | None = None,
    ) -> RunningPlugin:
        """Serve beside the rest of the program, on POLKU's own thread; use it in a `with` block, or `stop` it.

        `certificate`, `register` and `token` are those of `run`; the environment is not looked at.
        """
        from polku.plugin.running import RunningPlugin

        return RunningPlugin(self._service(), address, certificate, register, _check(token, register))

    def _service(self) -> Service:
        raise NotImplementedError


class IngestorPlugin(_Plugin):
    """Turn the bytes of one or more sources into events: a function of `data` or `(data, context)`, or a class.

    It returns or yields events, with a `RecordError` in place of each record that cannot be read; a class has
    `ingest(data, context)`. `start`, `close` and `health` are optional: `health` returns nothing, True or a remark
    while all is well, False or raises where not. Sync code runs in up to `workers` threads at once. An exception
    refuses the whole payload and is logged. Missing ids, times and sources are filled in by the gateway.
    """

    def __init__(
        self,
        ingestor: Ingestor | Callable[..., object],
        *,
        sources: str | Sequence[str],
        name: str | None = None,
        version: str = "0.0.0",
        description: str = "",
        workers: int = 10,
    ) -> None:
        from polku.ingest.adapt import check_ingestor

        check_ingestor(ingestor)
        served = [sources] if isinstance(sources, str) else list(sources)
        if not served or not all(isinstance(source, str) and source for source in served):
            raise checks.fault("IngestorPlugin", "sources", sources, "name at least one, as 'my-agent'")
        checks.whole("IngestorPlugin", "workers", workers)
        self._ingestor = ingestor
        self._workers = workers
        self.info = PluginInfo(
            name=name or _own_name(ingestor),
            version=version,
            description=description,
            type=PLUGIN_TYPE_INGESTOR,
            sources=served,
        )

    def _service(self) -> Service:
        from polku.plugin.service import IngestorService

        return IngestorService(self._ingestor, self.info, self._workers)


class EmitterPlugin(_Plugin):
    """Hand events to a destination: a function of a batch, an object with `emit(batch)`, or a built-in emitter.

    It returns when the destination has the events, with a `Failure` for each that it did not take. `RejectedError`
    makes dead letters of the whole batch. After `RetryableError` and `OSError` all of it is tried again; after any
    other exception in smaller calls, so that an event for which the code always raises is the only dead letter. One
    call runs at a time unless the object has a `concurrency`; sync code runs in a thread. `start`, `close` and `health`
    are optional, as for an IngestorPlugin; `close` is called when a pipeline stops, and `start` again if another one
    comes.

    `emitter_name` is what `route_to` uses, if it is not the plugin's `name`.
    """

    def __init__(
        self,
        emitter: Emitter | Callable[..., object] | Any,
        *,
        name: str | None = None,
        emitter_name: str = "",
        version: str = "0.0.0",
        description: str = "",
    ) -> None:
        from polku.emit.adapt import check_emitter
        from polku.emit.adapt import emitter_name as own_name

        check_emitter(emitter)
        self._emitter = emitter
        self.info = PluginInfo(
            name=name or own_name(emitter),
            version=version,
            description=description,
            type=PLUGIN_TYPE_EMITTER,
            emitter_name=emitter_name,
        )

    def _service(self) -> Service:
        from polku.plugin.service import EmitterService

        return EmitterService(self._emitter, self.info)


def _own_name(component: object) -> str:
    name = getattr(component, "name", None) or checks.label(component)
    if not isinstance(name, str) or name == "lambda":
        raise PlanError("a lambda has no name; say IngestorPlugin(..., name='my-plugin')", where="IngestorPlugin")
    return name


def _address(given: str | None) -> str:
    return given or os.environ.get("POLKU_PLUGIN_ADDRESS") or _ADDRESS


def _check(token: str | Secret | None, register: Registration | None) -> CallerCheck | None:
    from polku.external.connection import check_token
    from polku.plugin.callers import CallerCheck

    check_token("plugin", token)
    return CallerCheck(token) if token is not None or register is not None else None


def _registration() -> Registration | None:
    from polku.plugin.registration import Registration

    gateway = os.environ.get("POLKU_PLUGIN_GATEWAY")
    return Registration(gateway, token=secret_of(os.environ, "POLKU_PLUGIN_TOKEN")) if gateway else None
