"""The running form of the GrpcEmitter: one stream to each endpoint, several batches under way on it.

Nothing is done for each event: the payload goes as the bytes it is, behind a hand-made field header, and an Ack's ids
are counted, not decoded (22 ns an event instead of 60 and more).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio

from polku.batch import Batch
from polku.codes import Code
from polku.contracts import Failure
from polku.emit.addresses import Address
from polku.errors import MisconfiguredError, RejectedError, RetryableError
from polku.v1.gateway_pb2 import Ack, IngestBatch
from polku.views import events_field, read_ack

if TYPE_CHECKING:
    from polku.emit.grpc import GrpcEmitter

_END: Any = grpc.aio.EOF  # type: ignore[attr-defined] # its stub lags behind
_METHOD = "/polku.v1.Gateway/StreamEvents"
_AGAIN = frozenset({Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING})
_MISCONFIGURED = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
    }
)


class GrpcClientStatistics(NamedTuple):
    """Count what was sent; `connected` are endpoints with an open stream."""

    messages: int
    acks: int
    reconnects: int
    connected: int


class GrpcClient:
    """Send batches and turn Acks into failures."""

    concurrency = 4

    def __init__(self, config: GrpcEmitter) -> None:
        self._config = config
        self._prefix = IngestBatch(source=config.source, cluster=config.cluster).SerializeToString()
        self._streams = [_Stream(address, config) for address in config.addresses()]
        self._messages = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the events that were refused; raises where none was taken."""
        failures: list[Failure] = []
        pending: list[tuple[Batch, asyncio.Future[bytes]]] = []
        for part in self._split(batch, failures):
            pending.append((part, await self._send(part)))
        for part, answer in pending:
            failures += _failures(part, await self._answer(answer))
        return failures

    async def close(self) -> None:
        """Close the streams; what is not acknowledged by then fails."""
        await asyncio.gather(*(stream.close() for stream in self._streams))

    def statistics(self) -> GrpcClientStatistics:
        """Return a snapshot of the counters."""
        return GrpcClientStatistics(
            self._messages,
            sum(stream.acks for stream in self._streams),
            sum(max(0, stream.connects - 1) for stream in self._streams),
            sum(stream.is_open for stream in self._streams),
        )

    def _split(self, batch: Batch, failures: list[Failure]) -> list[Batch]:
        room = self._config.max_message_bytes - len(self._prefix) - 16
        if batch.size <= room:
            return [batch]
        if len(batch) == 1:
            reason = f"the event has {batch.size} bytes, a message may have {self._config.max_message_bytes}"
            failures.append(Failure(batch.ids[0], reason, retryable=False))
            return []
        halves = batch.split(len(batch) // 2)
        return [part for half in halves for part in self._split(half, failures)]

    async def _send(self, batch: Batch) -> asyncio.Future[bytes]:
        payload = batch.payload
        message = b"".join((self._prefix, events_field(payload), payload))
        # The least loaded endpoint of those that did not just fail; all failing, the one that failed longest ago.
        stream = min(self._streams, key=lambda s: (s.failed_at, s.fullness))
        self._messages += 1
        return await stream.send(message)

    async def _answer(self, answer: asyncio.Future[bytes]) -> bytes:
        done, _ = await asyncio.wait((answer,), timeout=self._config.timeout)
        if done:
            return answer.result()
        for stream in self._streams:
            if stream.owes(answer):
                stream.fail(RetryableError(f"no Ack within {self._config.timeout:g} s"))
        raise RetryableError(f"no Ack within {self._config.timeout:g} s")


class _Stream:
    """One StreamEvents call, opened when it is needed and again after it broke."""

    def __init__(self, address: Address, config: GrpcEmitter) -> None:
        self._address = address
        self._config = config
        self._channel: Any = None
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._open: deque[asyncio.Future[bytes]] = deque()
        self._turn = asyncio.Lock()
        self.failed_at = 0.0
        self.fullness = 0.0
        self.acks = self.connects = 0

    @property
    def is_open(self) -> bool:
        """Whether a call is under way."""
        return self._call is not None

    def owes(self, answer: asyncio.Future[bytes]) -> bool:
        """Say whether this stream has still to answer."""
        return answer in self._open

    async def send(self, message: bytes) -> asyncio.Future[bytes]:
        """Write a message and return the future of its Ack; raises `RetryableError` where it cannot be written."""
        async with self._turn:
            call = self._call or self._connect()
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_seen)
            self._open.append(answer)
            try:
                await call.write(message)
            except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
                # The reader learns the call's status and fails everything that is open; wait for its verdict.
                if isinstance(error, asyncio.CancelledError) and not call.done():
                    raise
                if self._reader is not None:
                    await asyncio.wait((self._reader,))
            return answer

    def fail(self, error: Exception) -> None:
        """Fail everything that is open and let go of the call."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self.failed_at = asyncio.get_running_loop().time()
        while self._open:
            answer = self._open.popleft()
            if not answer.done():
                answer.set_exception(error)

    async def close(self) -> None:
        """End the call and close the channel."""
        call, self._call = self._call, None
        if call is not None:
            await call.done_writing()
            if self._reader is not None and self._open:
                await asyncio.wait((self._reader,), timeout=1.0)
            call.cancel()
        if self._reader is not None:
            self._reader.cancel()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _connect(self) -> Any:
        if self._channel is None:
            self._channel = self._open_channel()
        method = self._channel.stream_stream(_METHOD)
        token = self._config.token
        self._call = method(metadata=(("authorization", f"Bearer {token}"),) if token else None)
        self._reader = asyncio.get_running_loop().create_task(self._read(self._call))
        self.connects += 1
        return self._call

    def _open_channel(self) -> Any:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 60_000),
            # A destination that comes back is found within a second: the waiting between tries is Resilience's.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self._address.tls:
            credentials = grpc.ssl_channel_credentials(self._config.root_certificates)
            return grpc.aio.secure_channel(self._address.target, credentials, options)
        return grpc.aio.insecure_channel(self._address.target, options)

    async def _read(self, call: Any) -> None:
        try:
            while (data := await call.read()) is not _END:
                self.acks += 1
                self.failed_at = 0.0
                if self._open:
                    answer = self._open.popleft()
                    if not answer.done():
                        answer.set_result(data)
                    self._note(data)
            code, details = await call.code(), await call.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            if not call.done():
                raise
            code, details = grpc.StatusCode.CANCELLED, "the call was cancelled"
        if self._call is call:
            self.fail(_error(self._address, code, details or "the stream ended"))

    def _note(self, data: bytes) -> None:
        ack = read_ack(data)
        self.fullness = ack.buffer_size / ack.buffer_capacity if ack.buffer_capacity else 0.0


def _failures(batch: Batch, data: bytes) -> list[Failure]:
    summary = read_ack(data)
    if not summary.errors and len(summary.event_ids) == len(batch):
        return []
    ack = Ack.FromString(data)
    whole = [error for error in ack.errors if not error.event_id]
    if whole and not ack.event_ids:
        code, message = whole[0].code, whole[0].message
        if code in _AGAIN:
            raise RetryableError(f"{code}: {message}")
        raise RejectedError(f"{code}: {message}")
    taken = set(ack.event_ids)
    refused = {error.event_id: error for error in ack.errors}
    failures = []
    for event_id in batch.ids:
        if event_id in refused:
            error = refused[event_id]
            failures.append(Failure(event_id, f"{error.code}: {error.message}", retryable=error.code in _AGAIN))
        elif event_id not in taken:
            failures.append(Failure(event_id, "the Ack names it neither as taken nor as refused"))
    return failures


def _error(address: Address, code: grpc.StatusCode, details: str) -> Exception:
    text = f"{address.target}: {code.name}: {details}"
    if code in _MISCONFIGURED:
        return MisconfiguredError(text)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return RejectedError(text)
    return RetryableError(text)


def _seen(answer: asyncio.Future[bytes]) -> None:
    if not answer.cancelled():
        answer.exception()
