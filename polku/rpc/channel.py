"""A connection to one gRPC server that is opened when it is needed, and again after it was lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from polku.http2.limits import ConnectionLimits
from polku.http2.stream import Stream
from polku.rpc.client import GrpcClientConnection, Listener, request_head
from polku.rpc.proxy import open_tunnel, proxy_for
from polku.rpc.status import Status, StatusCode
from polku.text import said

_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # between attempts to connect
_LIMITS = ConnectionLimits(stream_window=8 << 20, connection_window=16 << 20)
_UNIX = "unix:"
_CLOSED = "the channel is closed"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is: `address` is `host:port`, `[v6]:port` or `unix:/path`; `tls` makes the context to use."""

    address: str
    tls: Callable[[], ssl.SSLContext] | None = None
    connect_seconds: float = 10.0

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Return host and port of an address that is none of this machine's sockets."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


class Channel:
    """Hold the connection to one server; all calls share it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: GrpcClientConnection | None = None
        self._earlier: set[GrpcClientConnection] = set()  # that take no more calls, and go on with those they have
        self._connecting: asyncio.Task[GrpcClientConnection] | None = None
        self._failed_at = float("-inf")
        self._pause = _PAUSE
        self._closed = False

    @property
    def is_connected(self) -> bool:
        """Whether calls can begin at once; where not, an attempt to connect begins, unless one has just failed."""
        if self._is_usable():
            return True
        may_try = self._connecting is None and not self._closed
        if may_try and asyncio.get_running_loop().time() >= self._failed_at + self._pause:
            self._begin_connecting().add_done_callback(_seen)
        return False

    def begin(self, method: str, listener: Listener, metadata: Iterable[tuple[str, str]] = ()) -> Call:
        """Begin a call: the connection is opened if there is none."""
        return Call(self, method, listener, metadata)

    async def close(self) -> None:
        """Close the connection, and whatever is still called on it or waits for it; calls that come later fail."""
        self._closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait((connecting,))
        connections = [*self._earlier, *([] if self._connection is None else [self._connection])]
        self._connection = None
        for connection in connections:
            connection.refuse_new()
            connection.abort()  # the GOAWAY is written; a server that says goodbye as TLS does is not waited for
        for connection in connections:
            await connection.gone

    async def connection(self) -> GrpcClientConnection:
        """Return the connection, opened if need be; raises `ConnectionError` with a sentence."""
        if self._closed:
            raise ConnectionError(_CLOSED)
        if self._is_usable():
            assert self._connection is not None
            return self._connection
        connecting = self._connecting or self._begin_connecting()
        try:
            connection = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if connecting.cancelled() and (task is None or not task.cancelling()):
                raise ConnectionError(_CLOSED) from None
            raise
        if connection.gone.done() or connection.is_draining:  # since it was opened, before this task had its turn
            raise ConnectionError(connection.reason)
        return connection

    def _is_usable(self) -> bool:
        return self._connection is not None and self._connection.may_open

    def _begin_connecting(self) -> asyncio.Task[GrpcClientConnection]:
        self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return self._connecting

    async def _connect(self) -> GrpcClientConnection:
        try:
            async with asyncio.timeout(self._target.connect_seconds):
                connection = await self._open()
        except BaseException as error:
            self._failed_at = asyncio.get_running_loop().time()
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            if isinstance(error, TimeoutError):
                raise ConnectionError(f"no connection within {self._target.connect_seconds:g} s") from None
            if isinstance(error, (OSError, ValueError)):  # ssl's errors are of these, too
                raise ConnectionError(f"cannot connect: {said(error)}") from None
            raise
        finally:
            self._connecting = None
        self._pause = _PAUSE
        self._replace(connection)
        return connection

    def _replace(self, connection: GrpcClientConnection) -> None:
        """Let new calls go to a connection; the one before ends with the last call that it has."""
        earlier, self._connection = self._connection, connection
        if earlier is not None and not earlier.gone.done():
            self._earlier.add(earlier)
            earlier.gone.add_done_callback(lambda _: self._earlier.discard(earlier))
            earlier.refuse_new()

    async def _open(self) -> GrpcClientConnection:
        loop = asyncio.get_running_loop()
        target = self._target
        context = target.tls() if target.tls is not None else None
        if target.address.startswith(_UNIX):
            path = target.address.removeprefix(_UNIX).removeprefix("//")
            _, connection = await loop.create_unix_connection(_make, path)
            return connection
        host, port = target.host_and_port
        name = host if context is not None else None
        proxy = proxy_for(host, port, tls=context is not None)
        if proxy is None:
            transport, connection = await loop.create_connection(_make, host, port, ssl=context, server_hostname=name)
        else:
            sock = await open_tunnel(proxy, host, port)
            transport, connection = await loop.create_connection(_make, sock=sock, ssl=context, server_hostname=name)
        if context is not None:
            _require_http2(transport)
        _keep_alive(transport)
        return connection


class Call:
    """One call on a channel."""

    def __init__(self, channel: Channel, method: str, listener: Listener, metadata: Iterable[tuple[str, str]]) -> None:
        self._channel = channel
        self._method = method
        self._listener = listener
        self._metadata = list(metadata)
        self._connection: GrpcClientConnection | None = None
        self._stream: Stream | None = None
        self._is_over = False

    async def write(self, pieces: Iterable[bytes], *, is_packed: bool = False) -> None:
        """Send one message, given in pieces; return when it is on its way, or the call is over.

        One that `is_packed` is compressed, as the call's `grpc-encoding` says.
        """
        if self._stream is None and not await self._begin():
            return
        connection, stream = self._connection, self._stream
        assert connection is not None
        assert stream is not None
        await connection.write(stream, pieces, is_packed=is_packed)

    def end(self) -> None:
        """Say that no message follows; answers may still come."""
        if self._connection is not None and self._stream is not None:
            self._connection.end(self._stream)

    def cancel(self) -> None:
        """End the call; nothing is heard of it any more."""
        self._is_over = True
        if self._connection is not None and self._stream is not None:
            self._connection.abandon(self._stream)

    async def _begin(self) -> bool:
        target = self._channel._target
        try:
            connection = await self._channel.connection()
        except ConnectionError as error:
            if not self._is_over:
                self._is_over = True
                self._listener.ended(Status(StatusCode.UNAVAILABLE, str(error)))
            return False
        if self._is_over:
            return False
        if self._stream is None:
            authority = "localhost" if target.address.startswith(_UNIX) else target.address
            block = request_head(authority, self._method, tls=target.tls is not None, metadata=self._metadata)
            self._connection, self._stream = connection, connection.begin(block, self._listener)
        return True


def _make() -> GrpcClientConnection:
    return GrpcClientConnection(_LIMITS)


def _require_http2(transport: Any) -> None:  # uvloop's transports are none of asyncio's
    if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
        transport.abort()
        raise ConnectionError("what answers there does not speak HTTP/2 over TLS (ALPN)")


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel find out that a peer's machine is gone: servers close connections for too many of our PINGs."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _seen(task: asyncio.Task[GrpcClientConnection]) -> None:
    if not task.cancelled():
        task.exception()
