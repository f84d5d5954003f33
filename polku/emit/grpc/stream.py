"""One StreamEvents call to one endpoint, opened when it is needed and again after it broke."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from polku.emit.grpc.addresses import Address
from polku.emit.grpc.config import StreamConfig
from polku.emit.parts import LateError
from polku.errors import MisconfiguredError, RejectedError, RetryableError

_END: Any = grpc.aio.EOF  # type: ignore[attr-defined] # its stub lags behind
_CONNECT_TIMEOUT = 10.0
_FRESH = 1.0
_MISCONFIGURED = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
    }
)


class Answer(Protocol):
    """What came back for a message."""

    @property
    def fullness(self) -> float:
        """How full the other side's buffer is, from 0 to 1 (0 where it does not say)."""
        ...


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class Dialect(Generic[A]):
    """What is said on a stream: a method that answers each message with one Ack, and how an Ack is read.

    `read` raises protobuf's `DecodeError` for what is no Ack.
    """

    method: str
    read: Callable[[bytes], A]


class GrpcStream(Generic[A]):
    """Send messages and return their Acks, which come in order; several may be under way."""

    def __init__(self, address: Address, config: StreamConfig, dialect: Dialect[A]) -> None:
        self._address = address
        self._config = config
        self._dialect = dialect
        self._channel: Any = None
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._open: deque[asyncio.Future[A]] = deque()
        self._turn = asyncio.Lock()
        self._closed = False
        self._faults = 0
        self._rest_until = 0.0
        self._fullness = (0.0, 0.0)
        self.messages = self.acks = self.connects = 0

    @property
    def is_open(self) -> bool:
        """Whether a call is under way."""
        return self._call is not None

    @property
    def load(self) -> tuple[float, int, int]:
        """What to choose the least loaded stream by: its buffer's fullness, what it owes, what it has had."""
        fullness, noted = self._fullness
        is_fresh = asyncio.get_running_loop().time() - noted < _FRESH
        return (fullness if is_fresh else 0.0, len(self._open), self.messages)

    @property
    def rests_until(self) -> float:
        """The loop's time until which the stream is better left alone; 0 where it works.

        After a failure it rests for a second, two, four, up to 30, and until a connection stands again: so no batch
        has to find out whether the endpoint is back.
        """
        if not self._faults:
            return 0.0
        if self._rest_until <= asyncio.get_running_loop().time() and self._is_connected():
            return 0.0
        return self._rest_until

    async def ask(self, message: bytes) -> A:
        """Send a message and return its Ack; raises an `EmitError` where none comes in time or the stream breaks.

        Cancelling it while the message is being written ends the call, as half a message cannot be taken back: what
        is open on it then fails, to be tried again. Cancelled later it leaves the call to those that wait for their
        Acks, but the next message does not queue up behind an Ack that somebody has given up: it begins a new call.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        try:
            async with asyncio.timeout(self._config.timeout):
                async with self._turn:
                    await self._write(message, answer)
                return await answer
        except TimeoutError:
            error = LateError(f"{self._address.target}: no Ack within {self._config.timeout:g} s")
            if answer in self._open:
                self._fail(error)
            raise error from None

    async def close(self) -> None:
        """End the call, wait a second for the Acks that are open, fail the rest, and close the channel."""
        self._closed = True
        call = self._call
        if call is not None and self._reader is not None:
            broken = (TimeoutError, grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError)
            with contextlib.suppress(*broken):
                async with asyncio.timeout(1.0):
                    await call.done_writing()
                    await asyncio.wait((self._reader,))
        self._fail(RetryableError(f"{self._address.target}: the emitter was closed"))
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _write(self, message: bytes, answer: asyncio.Future[A]) -> None:
        if self._closed:
            raise RetryableError(f"{self._address.target}: the emitter was closed")
        if self._open and self._open[0].cancelled():
            self._fail(RetryableError(f"{self._address.target}: an Ack before this one never came"))
        call = self._call or self._connect()
        self._open.append(answer)
        self.messages += 1
        try:
            await call.write(message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Otherwise it was the call that was cancelled, and whoever did that has failed the answer.
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The reader learns the call's status and fails everything that is open: wait for its verdict.
            if self._reader is not None:
                await asyncio.wait((self._reader,))

    def _connect(self) -> Any:
        method = self._open_channel().stream_stream(self._dialect.method)
        token = self._config.token
        self._call = method(metadata=(("authorization", f"Bearer {token}"),) if token else None)
        self._reader = asyncio.get_running_loop().create_task(self._read(self._call))
        self.connects += 1
        return self._call

    def _is_connected(self) -> bool:
        if self._channel is None:
            return False
        return bool(self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY)

    def _open_channel(self) -> Any:
        if self._channel is None:
            options = _options(min(_CONNECT_TIMEOUT, self._config.timeout))
            if self._address.tls:
                credentials = grpc.ssl_channel_credentials(self._config.root_certificates)
                self._channel = grpc.aio.secure_channel(self._address.target, credentials, options)
            else:
                self._channel = grpc.aio.insecure_channel(self._address.target, options)
        return self._channel

    async def _read(self, call: Any) -> None:
        try:
            while (data := await call.read()) is not _END:
                self._take(self._dialect.read(data))
            code, details = await call.code(), await call.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except DecodeError:
            code, details = grpc.StatusCode.UNIMPLEMENTED, "what answers there sends no Acks"
        except asyncio.CancelledError:
            if not call.done():
                raise
            code, details = grpc.StatusCode.CANCELLED, "the call was cancelled"
        if self._call is call:
            self._end(code, details or "the stream ended")

    def _take(self, answer: A) -> None:
        self.acks += 1
        self._faults = 0
        self._fullness = (answer.fullness, asyncio.get_running_loop().time())
        if self._open:
            future = self._open.popleft()
            if not future.done():
                future.set_result(answer)

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        text = f"{self._address.target}: {code.name}: {details}"
        if code is grpc.StatusCode.OK and not self._open:
            self._call = None  # an idle stream that the other side closed in good order
        elif code in _MISCONFIGURED:
            self._fail(MisconfiguredError(text))
        elif code is grpc.StatusCode.INVALID_ARGUMENT and len(self._open) == 1:
            self._fail(RejectedError(text))
        else:  # of several messages under way nobody knows which one was invalid: each is tried again alone
            self._fail(RetryableError(text))

    def _fail(self, error: Exception) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._rest_until = asyncio.get_running_loop().time() + min(30.0, 2.0 ** min(self._faults, 5))
        self._faults += 1
        while self._open:
            answer = self._open.popleft()
            if not answer.done():
                answer.set_exception(error)


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


def _seen(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
