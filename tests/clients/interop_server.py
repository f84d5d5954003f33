"""`grpc.testing.TestService`, the service of gRPC's interop cases, on the gateway's own gRPC server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from polku.gateway.grpc.calls import CallContext, Method, StreamCall, StreamMethod, UnaryMethod
from polku.gateway.grpc.port import GrpcPort
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.places import Places
from polku.http2.limits import ConnectionLimits
from polku.rpc.status import CallError, Status, StatusCode
from tests.clients.interop_messages import message

SERVICE = "grpc.testing.TestService"
_INITIAL, _TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
_MESSAGE = 4 << 20

Messages = AsyncIterator[bytes]


class _Streaming:
    """Run a coroutine with the messages of one call."""

    def __init__(self, call: StreamCall, serve: Callable[[StreamCall, Messages], Awaitable[None]]) -> None:
        self._call = call
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        echoed = {name: value for name, value in call.head.metadata.items() if name in (_INITIAL, _TRAILING)}
        self._trailing = tuple((name, value) for name, value in echoed.items() if name == _TRAILING)
        if _INITIAL in echoed:
            call.begin([(_INITIAL, echoed[_INITIAL])])
        self._task = asyncio.ensure_future(self._run(serve))

    async def _run(self, serve: Callable[[StreamCall, Messages], Awaitable[None]]) -> None:
        try:
            await serve(self._call, self._all())
        except CallError as error:
            self._call.finish(error.status)
        else:
            self._call.finish(Status(StatusCode.OK, metadata=self._trailing))

    async def _all(self) -> Messages:
        while (one := await self._messages.get()) is not None:
            yield one

    def messages(self, messages: list[bytes]) -> bool:
        for one in messages:
            self._messages.put_nowait(one)
        return True

    def ended(self) -> None:
        self._messages.put_nowait(None)

    def drained(self) -> None:
        """Nothing waits for it."""

    def leave(self, status: Status) -> None:
        """It ends with its connection."""

    def lost(self) -> None:
        self._task.cancel()


async def _empty(request: bytes, context: CallContext) -> bytes:
    message("Empty").FromString(request)
    return b""


async def _unary(call: StreamCall, requests: Messages) -> None:
    async for one in requests:
        request = message("SimpleRequest").FromString(one)
        _check(request)
        answer = message("SimpleResponse")(payload=_payload(request.response_size), server_id="polku")
        call.send(answer.SerializeToString())


async def _input(call: StreamCall, requests: Messages) -> None:
    size = 0
    async for one in requests:
        size += len(message("StreamingInputCallRequest").FromString(one).payload.body)
    call.send(message("StreamingInputCallResponse")(aggregated_payload_size=size).SerializeToString())


async def _output(call: StreamCall, requests: Messages) -> None:
    async for one in requests:
        request = message("StreamingOutputCallRequest").FromString(one)
        _check(request)
        for wanted in request.response_parameters:
            await asyncio.sleep(wanted.interval_us / 1e6)
            call.send(message("StreamingOutputCallResponse")(payload=_payload(wanted.size)).SerializeToString())


async def _half_duplex(call: StreamCall, requests: Messages) -> None:
    kept = [one async for one in requests]

    async def again() -> Messages:
        for one in kept:
            yield one

    await _output(call, again())


def _payload(size: int) -> Any:
    return message("Payload")(body=bytes(size))


def _check(request: Any) -> None:
    """Raise `CallError` where the request asks for a status."""
    if request.HasField("response_status") and request.response_status.code:
        raise CallError(Status(request.response_status.code, request.response_status.message))


def _methods() -> dict[bytes, Method]:
    streams = {
        "UnaryCall": _unary,
        "StreamingInputCall": _input,
        "StreamingOutputCall": _output,
        "FullDuplexCall": _output,
        "HalfDuplexCall": _half_duplex,
    }
    methods: dict[bytes, Method] = {f"/{SERVICE}/EmptyCall".encode(): UnaryMethod(_empty)}
    for name, serve in streams.items():
        methods[f"/{SERVICE}/{name}".encode()] = StreamMethod(partial(_Streaming, serve=serve))
    return methods


@contextmanager
def serving() -> Iterator[str]:
    """Serve on a port of its own, in a thread; give its `host:port`."""
    loop = asyncio.new_event_loop()
    places = Places("connections", total=100, each=100, idle_seconds=60)
    port = GrpcPort(_methods(), ConnectionLimits(), message_limit=_MESSAGE, places=places)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opening = loop.create_server(partial(GrpcConnection, port), "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(opening, loop).result(30)
    try:
        host, number = server.sockets[0].getsockname()
        yield f"{host}:{number}"
    finally:
        asyncio.run_coroutine_threadsafe(_close(server, port), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _close(server: asyncio.Server, port: GrpcPort) -> None:
    server.close()
    for connection in list(port.connections):
        connection.abort()
    await asyncio.sleep(0.05)
