"""Calls by grpcio's client, in the form that `GrpcStream` knows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

from polku.emit.grpc.addresses import Address
from polku.rpc.client import Listener
from polku.rpc.status import Status, StatusCode
from polku.security.client_tls import ClientTls, Pems
from polku.text import line

_REASON = 1_000  # characters of what a server says about the end of a call
_END: Any = grpc.aio.EOF  # type: ignore[attr-defined] # its stub lags behind


class GrpcioChannel:
    """Hold a channel of grpcio to one endpoint; `connect_seconds` is how long connecting may take."""

    def __init__(self, address: Address, tls: ClientTls | None, connect_seconds: float) -> None:
        self._address = address
        self._tls = tls
        self._pems: Pems | None = None
        self._connect_seconds = connect_seconds
        self._channel: Any = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether calls can begin at once; where not, grpcio tries to connect."""
        if self._channel is None:
            return False
        return bool(self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY)

    def begin(self, method: str, listener: Listener, metadata: Iterable[tuple[str, str]] = ()) -> GrpcioCall:
        """Begin a call."""
        return GrpcioCall(self._open().stream_stream(method)(metadata=tuple(metadata) or None), listener)

    async def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _open(self) -> Any:
        pems = None if self._tls is None else self._tls.pems()
        if self._channel is None or pems != self._pems:
            self._replace(pems)
        return self._channel

    def _replace(self, pems: Pems | None) -> None:
        """Open a channel with these certificates; nothing is called on the one before any more."""
        if self._channel is not None:
            self._closing = asyncio.get_running_loop().create_task(self._channel.close())
        options = _options(self._connect_seconds)
        if pems is None:
            self._channel = grpc.aio.insecure_channel(self._address.target, options)
        else:
            credentials = grpc.ssl_channel_credentials(pems.roots, pems.key, pems.chain)
            self._channel = grpc.aio.secure_channel(self._address.target, credentials, options)
        self._pems = pems


class GrpcioCall:
    """One call, and the task that reads its answers."""

    def __init__(self, call: Any, listener: Listener) -> None:
        self._call = call
        self._listener = listener
        self._is_cancelled = False
        self._reader = asyncio.get_running_loop().create_task(self._read())
        self._ending: asyncio.Task[None] | None = None

    async def write(self, pieces: Iterable[bytes]) -> None:
        """Send one message; cancelling it ends the call, as half a message cannot be taken back."""
        try:
            await self._call.write(b"".join(pieces))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Otherwise it was the call that was cancelled, and whoever did that knows.
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The reader learns the call's status: wait for its verdict.
            await asyncio.wait((self._reader,))

    def end(self) -> None:
        """Say that no message follows."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    def cancel(self) -> None:
        """End the call; nothing is heard of it any more."""
        self._is_cancelled = True
        self._call.cancel()

    async def _end(self) -> None:
        with contextlib.suppress(grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError, asyncio.CancelledError):
            await self._call.done_writing()

    async def _read(self) -> None:
        call = self._call
        try:
            while (data := await call.read()) is not _END:
                if not self._is_cancelled:
                    self._listener.answered(data)
            code, details = await call.code(), await call.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            if not call.done():
                raise
            code, details = grpc.StatusCode.CANCELLED, "the call was cancelled"
        if not self._is_cancelled:
            self._listener.ended(Status(StatusCode[code.name], line(details or "", _REASON)))


def _options(connect_timeout: float) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Servers close connections that ping more often than every five minutes; a silent one is found by its Acks.
        ("grpc.keepalive_time_ms", 310_000),
        # A destination that comes back is found within a second: the waiting between tries is Resilience's.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        # In spite of its name this is how long connecting may take (github.com/grpc/grpc/issues/12830).
        ("grpc.min_reconnect_backoff_ms", round(connect_timeout * 1_000)),
        ("grpc.use_local_subchannel_pool", 1),
    ]
