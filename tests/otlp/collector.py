"""A server of OTLP that keeps what it gets and answers as a test asks for, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import grpc
import grpc.aio
from aiohttp import web

from polku import OtlpEmitter
from polku.gateway.otlp.answers import accepted_bytes, status_bytes
from polku.gateway.otlp.service import ExportResult
from polku.otlp.signals import LOGS, METRICS, SIGNALS, TRACES, Signal
from polku.testing import Ability, Destination

KINDS = {LOGS: "ExportLogsServiceRequest", TRACES: "ExportTraceServiceRequest", METRICS: "ExportMetricsServiceRequest"}


class Came(NamedTuple):
    """One request."""

    signal: Signal
    body: bytes
    headers: dict[str, str]

    @property
    def message(self) -> Any:
        """The request, decoded."""
        return getattr(self.signal.calls, KINDS[self.signal]).FromString(self.body)

    @property
    def records(self) -> list[Any]:
        """Its records."""
        resources = getattr(self.message, self.signal.field)
        scopes = [scope for resource in resources for scope in getattr(resource, f"scope_{_part(self.signal)}")]
        return [record for scope in scopes for record in getattr(scope, self.signal.records)]


def _part(signal: Signal) -> str:
    return {"logs": "logs", "traces": "spans", "metrics": "metrics"}[signal.name]


class Verdict(NamedTuple):
    """What a request is answered with: a status of gRPC or HTTP (None: it is taken), and what goes with that."""

    status: int | None = None
    message: str = ""
    rejected: int = 0
    metadata: tuple[tuple[str, str | bytes], ...] = ()


TAKEN = Verdict()


def ids_of(came: Came) -> list[str]:
    """Return the ids of log records that were made of events."""
    return [
        one.value.string_value for record in came.records for one in record.attributes if one.key == "log.record.uid"
    ]


class Collector:
    """Run the server; `judge` decides about each request."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.port = 0
        self.taken: list[Came] = []
        self.seen = 0
        self.judge: Callable[[Came], Verdict] = lambda came: TAKEN
        self.released = asyncio.Event()
        self.released.set()
        self.waiting = 0
        self._grpc: grpc.aio.Server | None = None
        self._http: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        if self.protocol == "grpc":
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            for signal in SIGNALS:
                method = grpc.unary_unary_rpc_method_handler(partial(self._call, signal))
                handler = grpc.method_handlers_generic_handler(signal.service, {"Export": method})
                server.add_generic_rpc_handlers((handler,))
            self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
            await server.start()
            self._grpc = server
            return
        app = web.Application()
        for signal in SIGNALS:
            app.router.add_post(f"/base{signal.path}", partial(self._post, signal))
            app.router.add_post(signal.path, partial(self._post, signal))
        self._http = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
        await self._http.setup()
        await web.TCPSite(self._http, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._http.addresses[0][1]

    async def stop(self) -> None:
        server, self._grpc = self._grpc, None
        if server is not None:
            await server.stop(0)
        http, self._http = self._http, None
        if http is not None:
            await http.cleanup()

    async def _call(self, signal: Signal, body: bytes, context: Any) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        verdict = await self._decide(Came(signal, body, headers))
        if verdict.status is not None:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            await context.abort(codes[verdict.status], verdict.message, trailing_metadata=verdict.metadata)
        return accepted_bytes(ExportResult(verdict.rejected, verdict.message))

    async def _post(self, signal: Signal, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has decompressed it
        headers = {key.lower(): value for key, value in request.headers.items()}
        headers["path"] = request.path
        verdict = await self._decide(Came(signal, body, headers))
        if verdict.status is not None:
            fields = {key: str(value) for key, value in verdict.metadata}
            return web.Response(status=verdict.status, body=status_bytes(3, verdict.message), headers=fields)
        content = accepted_bytes(ExportResult(verdict.rejected, verdict.message))
        return web.Response(body=content, content_type="application/x-protobuf")

    async def _decide(self, came: Came) -> Verdict:
        self.seen += 1
        self.waiting += 1
        try:
            await self.released.wait()
        finally:
            self.waiting -= 1
        verdict = self.judge(came)
        if verdict.status is None:
            self.taken.append(came)
        return verdict


class OtlpGrpc(Destination):
    """A server of OTLP over gRPC, for the conformance suite."""

    abilities = Ability.KILL | Ability.HANG | Ability.REFUSE
    protocol = "grpc"

    def __init__(self) -> None:
        self.collector = Collector(self.protocol)

    async def start(self) -> None:
        await self.collector.start()

    async def stop(self) -> None:
        self.collector.released.set()
        await self.collector.stop()

    def emitter(self) -> object:
        return OtlpEmitter(self.collector.endpoint, protocol=self.protocol)

    async def held(self) -> list[str]:
        return [event_id for came in self.collector.taken for event_id in ids_of(came)]

    async def kill(self) -> None:
        await self.collector.stop()

    async def hang(self) -> None:
        self.collector.released.clear()

    async def resume(self) -> None:
        self.collector.released.set()

    async def is_waited_for(self) -> bool:
        return self.collector.waiting > 0

    async def refuse(self, ids: Collection[str]) -> None:
        refused = Verdict(3 if self.protocol == "grpc" else 400, "as asked")
        self.collector.judge = lambda came: refused if set(ids_of(came)) & set(ids) else TAKEN


class OtlpHttp(OtlpGrpc):
    """The same over HTTP."""

    protocol = "http"


__all__ = ["TAKEN", "Came", "Collector", "OtlpGrpc", "OtlpHttp", "Verdict", "ids_of"]
