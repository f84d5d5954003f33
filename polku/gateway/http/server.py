"""The HTTP door: `POST /v1/events` takes events in, `GET /health` says how the pipeline is.

Every answer to `POST /v1/events`, of whatever status, is an `Ack` as JSON. A request is read whole, within limits of
size and time, and then goes the way of a unary gRPC call: what is in flight together travels together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from polku.aio.eager import start_eagerly
from polku.codes import Code
from polku.gateway.certificates import HTTP1, Certificates
from polku.gateway.http.answer import Metrics, ack_json, health_json, written
from polku.gateway.http.body import ENCODINGS, BodyReader
from polku.gateway.http.browser import Pages
from polku.gateway.http.connections import Connections, HttpConnection
from polku.gateway.http.content import ACCEPTED, Head
from polku.gateway.http.events import JSON, Events, Request, answer_of
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.handler import handlers
from polku.gateway.http.refusal import RequestError, counted
from polku.gateway.http.usual import UsualHead
from polku.gateway.intake import Intake
from polku.gateway.listen import Listener, Queue, context_of, listen
from polku.gateway.otlp.http import OtlpHttp, leave_to_handler
from polku.health import Health
from polku.log import RepeatedLog
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack

if TYPE_CHECKING:
    from polku.security.account import Account
    from polku.security.authenticator import Authenticator

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_SILENT = logging.getLogger(f"{__name__}.clients")
_SILENT.setLevel(logging.CRITICAL)  # clients are told of their mistakes; aiohttp would log each with a traceback
_NAME = "polku"
_PATHS = (
    "POST /v1/events, /v1/logs, /v1/traces and /v1/metrics, and GET /health, /health/live, /health/ready and /metrics"
)
_LEAVE_SECONDS = 30.0  # for clients of a port that is opened again to send something, and learn that they are to go
_LEAVE_LOOK_SECONDS = 0.2
_NEVER_SECONDS = 1e9
_FRESH = {"Cache-Control": "no-store"}
_NO_METRICS = "this port shows metrics to who sends its token, and has none (POLKU_HTTP_TOKEN); ask the admin address\n"


class HttpServer:
    """Serve one intake over HTTP: with a `token` or an `authenticator`, only to clients that say who they are.

    Pages of the web may send where they are of one of the `origins`.
    """

    protocol = "http"

    def __init__(
        self,
        intake: Intake,
        health: Callable[[], Awaitable[Health]],
        token: str | None = None,
        authenticator: Authenticator | None = None,
        origins: Collection[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._intake = intake
        self._health = health
        self._metrics = metrics
        self._gate = HttpGate(token, authenticator)
        intake.count_failures(self._gate.failures)
        self._pages = Pages(origins)
        self._bodies = BodyReader(intake.limits)
        self._events = Events(intake, self._gate, self._bodies)
        self._started = time.monotonic()
        self._serving = True
        self._is_leaving = False
        self._busy = 0
        self._open: set[asyncio.Future[None]] = set()  # usual requests without an answer
        self._quiet = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._server: Listener | None = None
        self._connections: Connections | None = None

    @property
    def connections(self) -> int | None:
        """How many connections are open; None where that is not known."""
        return None if self._connections is None else len(self._connections)

    async def start(
        self,
        address: str,
        field: str = "http_addr",
        *,
        shared: bool = False,
        certificates: Certificates | None = None,
        beside: Queue | None = None,
    ) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` about `field` where it cannot be had.

        A `shared` port may be open in other processes too: the kernel divides the connections among them. With
        `certificates` it speaks TLS alone. `beside` an open port it takes over what comes to that one.
        """
        app = web.Application(middlewares=[self._answer_errors])
        app.router.add_post("/v1/events", self._post, expect_handler=leave_to_handler)
        app.router.add_route("OPTIONS", "/v1/events", self._options)
        OtlpHttp(self._intake, self._bodies, self._identify).add_routes(app)
        app.router.add_get("/health", self._get_health)
        app.router.add_get("/health/live", self._get_live)
        app.router.add_get("/health/ready", self._get_ready)
        if self._metrics is not None:
            app.router.add_get("/metrics", partial(self._get_metrics, self._metrics))
        app.on_response_prepare.append(self._prepare)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._runner = runner
        assert runner.server is not None
        options: dict[str, Any] = {"access_log": None, "logger": _SILENT, "auto_decompress": False}
        options["keepalive_timeout"] = (
            _NEVER_SECONDS  # it knows nothing of usual requests; `HttpConnection` keeps the time
        )
        make = handlers(runner.server, self._refuse_bytes, lingering_time=2.0, **options)
        self._connections = Connections(make, self._intake.limits, self._answer_usual)
        tls = context_of(certificates, HTTP1)
        self._server, bound = await listen(self._connections, field, address, shared=shared, tls=tls, beside=beside)
        return bound

    @property
    def listener(self) -> Listener | None:
        """The open port."""
        return self._server

    async def leave(self, *, queued: bool) -> None:
        """Take no connections any more; end each with its next answer, and after a while those that say nothing.

        With `queued` connections that wait at the port are taken first: nobody else takes them.
        """
        if self._server is not None:
            server, self._server = self._server, None
            server.leave(queued=queued)
        self._is_leaving = True
        ended = time.monotonic() + _LEAVE_SECONDS
        while time.monotonic() < ended and self.connections:  # noqa: ASYNC110 - a look now and then is enough
            await asyncio.sleep(_LEAVE_LOOK_SECONDS)
        await self.stop(0)

    async def stop(self, grace: float) -> None:
        """Close the port, give open requests `grace` seconds to end, close the connections."""
        self._serving = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._busy and grace:
            self._quiet.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), grace)
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        if self._connections is not None:
            self._connections.abort()

    async def set_serving(self, serving: bool) -> None:
        """Choose whether `/health` tells load balancers to come."""
        self._serving = serving

    async def _post(self, request: web.Request) -> web.Response:
        head = _head(request)

        async def read(encoding: str) -> bytes:
            self._bodies.check_length(request.content_length)
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            return await self._bodies.decompress(await self._bodies.read(request), encoding)

        authorization = request.headers.get("Authorization", "")
        connection = self._connection(request.transport)
        taken = await self._events.post(Request(head, authorization, request.transport, connection, read))
        is_accepted = isinstance(taken, Ack) and not taken.errors
        if is_accepted and (applied := _wants_no_body(request.headers.getall("Prefer", ()))) is not None:
            return web.Response(status=204, headers=applied)
        answer = await answer_of(taken)
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        if not self._serving or self._is_leaving:
            response.force_close()
        return response

    def _answer_usual(self, connection: HttpConnection, head: UsualHead, body: bytes) -> None:
        work = start_eagerly(self._post_usual(connection, head, body))
        if not work.done():
            self._open.add(work)
            work.add_done_callback(self._open.discard)

    async def _post_usual(self, connection: HttpConnection, head: UsualHead, body: bytes) -> None:
        self._busy += 1
        try:
            answer = await self._events.post_usual(connection, head, body)
            closes = "Connection" in answer.headers or not self._serving or self._is_leaving
            connection.answered(written(answer.status, answer.headers, answer.body, close=closes), close=closes)
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _identify(self, request: web.Request) -> Account | None:
        authorization = request.headers.get("Authorization", "")
        return await self._gate.identify(authorization, request.transport, self._connection(request.transport))

    async def _options(self, request: web.Request) -> web.Response:
        headers = {"Allow": "OPTIONS, POST", "Accept-Post": ACCEPTED, "Accept-Encoding": ", ".join(ENCODINGS)}
        return web.Response(status=204, headers=headers)

    async def _get_live(self, request: web.Request) -> web.Response:
        return web.Response(text="live\n", headers=_FRESH)

    async def _get_ready(self, request: web.Request) -> web.Response:
        if self._serving and (await self._judge()).ready:
            return web.Response(text="ready\n", headers=_FRESH)
        return web.Response(status=503, text="not ready\n", headers=_FRESH)

    async def _get_metrics(self, metrics: Metrics, request: web.Request) -> web.Response:
        """Show the metrics to whom the door knows: they have names of parts and destinations."""
        if not self._gate.asks:
            return web.Response(status=403, text=_NO_METRICS, headers=_FRESH)
        await self._identify(request)
        body, content_type = await metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**_FRESH, "Content-Type": content_type})

    async def _judge(self) -> Health:
        try:
            return await self._health()
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("health", "the pipeline's health cannot be told")
            why = f"does not answer: {type(error).__name__}"
            return Health(False, {"hub": (False, why)}, 0, False, f"hub {why}")

    async def _get_health(self, request: web.Request) -> web.Response:
        health = await self._judge()
        well = health.healthy if "strict" in request.query else health.ready
        status = 200 if well and self._serving else 503
        health = self._gate.shown(request, health)
        healthy = health.healthy and self._serving
        body = health_json(health._replace(healthy=healthy), int(time.monotonic() - self._started))
        return web.Response(status=status, body=body, content_type=JSON, headers=_FRESH)

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Keep the connection's time, and make every error an Ack."""
        connection = self._connection(request.transport)
        if connection:
            connection.begin()
        self._busy += 1
        try:
            with counted(self._intake, "http"):
                self._pages.check(request.method, request.headers, _own_address(request))
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                return web.Response(status=204)
            response = await handler(request)
            if self._is_leaving and not response.prepared:
                response.force_close()
            return response
        except RequestError as error:
            return self._answer(request, error.status, self._events.refuse(error.code, error.message), error.headers)
        except web.HTTPException as error:
            ack = self._events.refuse(Code.UNSUPPORTED, _explain(request, error))
            return self._answer(request, error.status, ack, _allow(error))
        except BaseException as error:
            if is_ours(error):
                raise
            return self._answer(request, 500, self._events.failed(request.method, request.path, error), {})
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()
            if connection:
                connection.end(is_read=request.content.is_eof())

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Keep aiohttp from telling everybody the versions of Python and of itself; let allowed pages read."""
        response.headers["Server"] = _NAME
        response.headers.update(self._pages.answer(request.headers))

    def _connection(self, transport: asyncio.BaseTransport | None) -> HttpConnection | None:
        return None if self._connections is None else self._connections.find(transport)

    def _refuse_bytes(self, status: int, message: str) -> web.Response:
        """Answer what is no request."""
        body = ack_json(self._events.refuse(Code.MALFORMED, message))
        return web.Response(status=status, body=body, content_type=JSON, headers={"Server": _NAME})

    def _answer(self, request: web.Request, status: int, ack: Ack, headers: Mapping[str, str]) -> web.Response:
        response = web.Response(status=status, body=ack_json(ack), content_type=JSON, headers=headers)
        if "Connection" in headers or not self._serving or self._is_leaving:
            response.force_close()
        return response


def _wants_no_body(preferences: Iterable[str]) -> Mapping[str, str] | None:
    """Return the headers of an answer without a body where its client wants none, else None.

    `return=minimal` says so (RFC 7240 §4.2). Knative's brokers and channels send `reply`: they take an answer that has
    a body, and is no CloudEvent, for a failure, and deliver the event again.
    """
    wanted = {one.partition(";")[0].strip().lower() for line in preferences for one in line.split(",")}
    if "return=minimal" in wanted:
        return {"Preference-Applied": "return=minimal"}
    return {} if "reply" in wanted else None


def _own_address(request: web.Request) -> str:
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(own[0]) if isinstance(own, tuple) else ""


def _head(request: web.Request) -> Head:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), value)
    source = request.query.get("source") or headers.get("x-polku-source", "")
    cluster = request.query.get("cluster") or headers.get("x-polku-cluster", "")
    try:
        (source + cluster).encode()
    except UnicodeEncodeError:
        message = f"source={source[:100]!r}, cluster={cluster[:100]!r}: must be UTF-8"
        raise RequestError(400, Code.MALFORMED, message) from None
    return Head(headers, source, cluster, request.path, request.query_string)


def _explain(request: web.Request, error: web.HTTPException) -> str:
    return f"{request.method} {request.path[:100]}: {error.reason}; there are {_PATHS}"


def _allow(error: web.HTTPException) -> dict[str, str]:
    allow = error.headers.get("Allow")
    return {"Allow": allow} if allow else {}
