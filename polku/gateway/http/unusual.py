"""Every request that is not usual: aiohttp reads it, on a connection that is its own from then on (see `usual`).

This module loads aiohttp, which takes a fifth of a second and 12 MB: the first such request waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import HttpVersion11, web

from polku.codes import Code
from polku.gateway.http.answer import JSON, Metrics, ack_json
from polku.gateway.http.body import ENCODINGS, BodyReader
from polku.gateway.http.browser import Pages
from polku.gateway.http.connections import HttpConnection
from polku.gateway.http.content import ACCEPTED, Head
from polku.gateway.http.events import Events, HttpAnswer, Request, answer_of
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.handler import handlers
from polku.gateway.http.health import FRESH, LIVE, READY, REPORT, HealthAnswers
from polku.gateway.http.refusal import RequestError, counted
from polku.gateway.http.state import ServerState
from polku.gateway.intake import Intake
from polku.gateway.otlp.http import OtlpHttp, leave_to_handler
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack

if TYPE_CHECKING:
    from polku.security.account import Account

_SILENT = logging.getLogger(f"{__name__}.clients")
_SILENT.setLevel(logging.CRITICAL)  # clients are told of their mistakes; aiohttp would log each with a traceback
_NAME = "polku"
_PATHS = (
    "POST /v1/events, /v1/logs, /v1/traces and /v1/metrics, and GET /health, /health/live, /health/ready and /metrics"
)
_NEVER_SECONDS = 1e9
_NO_METRICS = "this port shows metrics to who sends its token, and has none (POLKU_HTTP_TOKEN); ask the admin address\n"


class Server(NamedTuple):
    """What answers requests; `find` returns the connection of a transport while it is open."""

    intake: Intake
    gate: HttpGate
    bodies: BodyReader
    events: Events
    health: HealthAnswers
    pages: Pages
    metrics: Metrics | None
    state: ServerState
    find: Callable[[asyncio.BaseTransport | None], HttpConnection | None]


class Unusual:
    """HttpAnswer requests that aiohttp has read; `make` returns the protocol of a connection, after `start`."""

    def __init__(self, server: Server) -> None:
        self._intake, self._gate, self._bodies, self._events, self._health, self._pages = server[:6]
        self._metrics, self._state, self._find = server[6:]
        self._runner: web.AppRunner | None = None
        self.make: Callable[[], asyncio.Protocol]

    async def start(self) -> None:
        """Make ready."""
        app = web.Application(middlewares=[self._answer_errors])
        app.router.add_post("/v1/events", self._post, expect_handler=leave_to_handler)
        app.router.add_route("OPTIONS", "/v1/events", self._options)
        OtlpHttp(self._intake, self._bodies, self._identify).add_routes(app)
        for path in (REPORT, LIVE, READY):
            app.router.add_get(path, partial(self._get_health, path))
        if self._metrics is not None:
            app.router.add_get("/metrics", partial(self._get_metrics, self._metrics))
        app.on_response_prepare.append(self._prepare)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        assert self._runner.server is not None
        options: dict[str, Any] = {"access_log": None, "logger": _SILENT, "auto_decompress": False}
        options["keepalive_timeout"] = _NEVER_SECONDS  # `HttpConnection` keeps the time
        self.make = handlers(self._runner.server, self._refuse_bytes, lingering_time=2.0, **options)

    async def stop(self) -> None:
        """Close the connections that are aiohttp's."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        head = _head(request)

        async def read(encoding: str) -> bytes:
            self._bodies.check_length(request.content_length)
            if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            return await self._bodies.decompress(await self._bodies.read(request), encoding)

        authorization = request.headers.get("Authorization", "")
        connection = self._find(request.transport)
        taken = await self._events.post(Request(head, authorization, request.transport, connection, read))
        is_accepted = isinstance(taken, Ack) and not taken.errors
        if is_accepted and (applied := _wants_no_body(request.headers.getall("Prefer", ()))) is not None:
            return web.Response(status=204, headers=applied)
        response = _response(await answer_of(taken))
        if self._state.closes:
            response.force_close()
        return response

    async def _identify(self, request: web.Request) -> Account | None:
        authorization = request.headers.get("Authorization", "")
        return await self._gate.identify(authorization, request.transport, self._find(request.transport))

    async def _options(self, request: web.Request) -> web.Response:
        headers = {"Allow": "OPTIONS, POST", "Accept-Post": ACCEPTED, "Accept-Encoding": ", ".join(ENCODINGS)}
        return web.Response(status=204, headers=headers)

    async def _get_health(self, path: str, request: web.Request) -> web.Response:
        authorization = request.headers.get("Authorization", "")
        is_strict = "strict" in request.query
        answer = await self._health.answer(
            path, strict=is_strict, authorization=authorization, transport=request.transport
        )
        return _response(answer)

    async def _get_metrics(self, metrics: Metrics, request: web.Request) -> web.Response:
        """Show the metrics to whom the door knows: they have names of parts and destinations."""
        if not self._gate.asks:
            return web.Response(status=403, text=_NO_METRICS, headers=FRESH)
        await self._identify(request)
        body, content_type = await metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**FRESH, "Content-Type": content_type})

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Keep the connection's time, and make every error an Ack."""
        connection = self._find(request.transport)
        if connection:
            connection.begin()
        self._state.begin()
        try:
            with counted(self._intake, "http"):
                self._pages.check(request.method, request.headers, _own_address(request))
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                return web.Response(status=204)
            response = await handler(request)
            leaves = self._state.leaving or (connection is not None and connection.is_leaving)
            if leaves and not response.prepared:
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
            self._state.end()
            if connection:
                connection.end(is_read=request.content.is_eof())

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Keep aiohttp from telling everybody the versions of Python and of itself; let allowed pages read."""
        response.headers["Server"] = _NAME
        response.headers.update(self._pages.answer(request.headers))

    def _refuse_bytes(self, status: int, message: str) -> web.Response:
        """HttpAnswer what is no request."""
        body = ack_json(self._events.refuse(Code.MALFORMED, message))
        return web.Response(status=status, body=body, content_type=JSON, headers={"Server": _NAME})

    def _answer(self, request: web.Request, status: int, ack: Ack, headers: Mapping[str, str]) -> web.Response:
        response = web.Response(status=status, body=ack_json(ack), content_type=JSON, headers=headers)
        connection = self._find(request.transport)
        leaves = self._state.closes or (connection is not None and connection.is_leaving)
        if "Connection" in headers or leaves:
            response.force_close()
        return response


def _response(answer: HttpAnswer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


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
    for field, value in request.headers.items():
        name = field.lower()
        if name in headers and name.startswith("ce-"):
            message = f"{name[:100]}={value[:100]!r}: stands twice in the head; leave one of them out"
            raise RequestError(400, Code.INVALID_RECORD, message)
        headers.setdefault(name, value)
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
