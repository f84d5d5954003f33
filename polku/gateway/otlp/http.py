"""`POST /v1/logs`, `/v1/traces` and `/v1/metrics`: OTLP over HTTP, as protobuf or JSON.

Answers are of the type that the request was of, errors too: a `google.rpc.Status`. A client sends again only what was
answered with 429, 502, 503 or 504, so that a body that comes too slowly is 503, and not 408.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from aiohttp import web

from polku.codes import Code
from polku.errors import DrainingError, InputError
from polku.gateway.grpc_status import status_of as grpc_status_of
from polku.gateway.http.answer import status_of
from polku.gateway.http.body import BodyReader, encoding_of
from polku.gateway.http.refusal import RequestError, counted
from polku.gateway.intake import Intake
from polku.gateway.otlp.answers import accepted_bytes, accepted_json, status_bytes, status_json
from polku.gateway.otlp.service import ExportResult, OtlpService
from polku.otlp.signals import SIGNALS, Signal
from polku.rpc.status import StatusCode
from polku.security.account import Account
from polku.text import line
from polku.v1.gateway_pb2 import Ack, AckError

_JSON, _PROTOBUF = "application/json", "application/x-protobuf"
_ACCEPTED = f"{_PROTOBUF}, {_JSON}"
_AGAIN = {"Retry-After": "1"}
_MESSAGE = 1_000
_GRPC_CODES = {401: StatusCode.UNAUTHENTICATED, 429: StatusCode.RESOURCE_EXHAUSTED, 503: StatusCode.UNAVAILABLE}

Identify = Callable[[web.Request], Awaitable[Account | None]]


class _Refused(NamedTuple):
    """What a request is answered with that was not taken."""

    status: int
    code: int
    message: str
    headers: Mapping[str, str]


class OtlpHttp:
    """Answer requests of OTLP; `identify` tells whose they are."""

    def __init__(self, intake: Intake, bodies: BodyReader, identify: Identify) -> None:
        self._intake = intake
        self._service = OtlpService(intake)
        self._bodies = bodies
        self._identify = identify

    def add_routes(self, app: web.Application) -> None:
        """Serve the paths of the three signals."""
        for signal in SIGNALS:
            app.router.add_route("*", signal.path, partial(self._handle, signal), expect_handler=leave_to_handler)

    async def _handle(self, signal: Signal, request: web.Request) -> web.Response:
        is_json = request.content_type != _PROTOBUF
        try:
            answer = await self._export(signal, request, is_json=is_json)
        except (RequestError, InputError, DrainingError) as error:
            return _refusal(_refused(error), is_json=is_json)
        body = accepted_json(signal, answer) if is_json else accepted_bytes(answer)
        return web.Response(body=body, content_type=_JSON if is_json else _PROTOBUF)

    async def _export(self, signal: Signal, request: web.Request, *, is_json: bool) -> ExportResult:
        with counted(self._intake, "otlp"):
            account, body = await self._read(signal, request)
        cluster = request.headers.get("X-Polku-Cluster", "")
        if account is not None:
            account.count(0, len(body))
        return await self._service.export(signal, body, account, cluster=cluster, is_json=is_json)

    async def _read(self, signal: Signal, request: web.Request) -> tuple[Account | None, bytes]:
        """Return the body of a request that may send, and whose it is; raises `RequestError`, and `InputError`."""
        if request.method != "POST":
            reason = f"{line(request.method, 20)} {signal.path}: send POST"
            raise RequestError(405, Code.UNSUPPORTED, reason, {"Allow": "POST"})
        account = await self._identify(request)
        if request.content_type not in (_JSON, _PROTOBUF):
            reason = f"Content-Type={line(request.content_type, 100)!r}: is not supported; send one of {_ACCEPTED}"
            raise RequestError(415, Code.UNSUPPORTED, reason, {"Accept-Post": _ACCEPTED})
        encoding = encoding_of(request.headers.get("Content-Encoding", ""))
        if account is not None:
            account.check_rate()
        self._bodies.check_length(request.content_length)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        return account, await self._bodies.decompress(await self._bodies.read(request), encoding)


async def leave_to_handler(request: web.Request) -> None:
    """Do not say `100 Continue` yet: the handler does, once it knows that it wants the body."""


def _refused(error: RequestError | InputError | DrainingError) -> _Refused:
    if isinstance(error, RequestError):
        if error.status == 408:
            return _Refused(503, StatusCode.UNAVAILABLE, error.message, {**error.headers, **_AGAIN})
        code = _GRPC_CODES.get(error.status, StatusCode.INVALID_ARGUMENT)
        return _Refused(error.status, code, error.message, error.headers)
    own = Code.DRAINING if isinstance(error, DrainingError) else error.code
    status, headers = status_of(Ack(errors=[AckError(code=own)]))
    found = grpc_status_of(error)
    return _Refused(status, found.code, found.message, headers)


def _refusal(refused: _Refused, *, is_json: bool) -> web.Response:
    write = status_json if is_json else status_bytes
    body = write(refused.code, line(refused.message, _MESSAGE))
    kind = _JSON if is_json else _PROTOBUF
    response = web.Response(status=refused.status, body=body, content_type=kind, headers=refused.headers)
    if "Connection" in refused.headers:
        response.force_close()
    return response
