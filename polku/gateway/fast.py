"""The fast gRPC door: HTTP/2 in Rust, outside the GIL (`pygrpc-native`), for unary SendEvent; all else as in `server`.

Calls come in batches: what one trip brings becomes one batch of events and is answered by the ids of the calls. What
is not SendEvent goes through a Unix socket to a `GatewayServer` behind this door.

What differs from the other door, which is why it is opened only where it is asked for: a call that is refused because
the buffer is full carries no `grpc-retry-pushback-ms` (the library reserves the key); a stream's statistics begin
with the first stream that came through this door, not with its connection (all come from the one socket); a message is
read whole before its size is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc

from polku.aio.eager import start_eagerly
from polku.contracts import IngestContext
from polku.errors import DrainingError, InputError
from polku.gateway.acks import bounded
from polku.gateway.addresses import cannot_open
from polku.gateway.admission import Admission
from polku.gateway.grpc_status import Failure, check_answer, status_of
from polku.gateway.grpcio import GatewayServer
from polku.gateway.intake import Intake
from polku.health import Health
from polku.log import RepeatedLog
from polku.socket_folder import SocketFolder
from polku.text import named
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack, IngestEvent

if TYPE_CHECKING:
    from polku.external.registry_service import RegistryService

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_METHOD = "/polku.v1.Gateway/SendEvent"
_CALLS = 256  # in one trip from Rust
_AGAIN_SECONDS = 1.0
_BYTES = 1 << 20  # pushed together: so far the limit on open bytes may be passed


class FastServer:
    """Serve one intake over gRPC, unary calls at the least cost."""

    def __init__(
        self, intake: Intake, health: Callable[[], Awaitable[Health]], registry: RegistryService | None = None
    ) -> None:
        self._intake = intake
        self._behind = GatewayServer(intake, health, registry)
        self._front: Any = None
        self._folder: SocketFolder | None = None
        self._stopping = False
        self._calls: set[int] = set()
        self._ingesting: dict[int, asyncio.Task[None]] = {}
        self._pushing: set[asyncio.Future[None]] = set()

    async def start(self, address: str, *, shared: bool = False) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` where it cannot be had."""
        from pygrpc_native import NativeGrpcFront

        try:
            # grpcio pings only connections with calls; so does this door.
            self._front = front = NativeGrpcFront(
                address,
                [(_METHOD, False)],
                keepalive_permit_without_calls=False,
                max_concurrent_streams=self._intake.limits.connection_calls,
                reuse_port=shared,
            )
        except OSError as error:
            raise cannot_open("grpc_addr", address, error) from None
        self._folder = folder = SocketFolder("door")
        path = str(folder.path / "grpc.sock")
        await self._behind.start(f"unix:{path}")
        front.set_fallback(path)
        front.start()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._receive, args=(loop,), name="polku-fast-door", daemon=True).start()
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{front.bound_port}"

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the port."""
        if self._front is None:
            return
        self._stopping = True
        behind = asyncio.ensure_future(self._behind.stop(grace))
        open_now = [*self._ingesting.values(), *self._pushing]
        if open_now and grace > 0:
            await asyncio.wait(open_now, timeout=grace)
        front, self._front = self._front, None
        try:
            await behind
        finally:
            await asyncio.get_running_loop().run_in_executor(None, front.close)
        for task in [*self._ingesting.values(), *self._pushing]:
            task.cancel()
        if self._folder is not None:
            self._folder.close()

    async def set_serving(self, serving: bool) -> None:
        """Say to `grpc.health.v1` clients whether the gateway serves."""
        await self._behind.set_serving(serving)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bring calls to the loop until the port is closed; runs in a thread of its own."""
        front = self._front
        while (calls := _next_calls(front)) is not None:
            try:
                loop.call_soon_threadsafe(self._take, front, calls)
            except RuntimeError:  # the loop is closed: nobody called stop()
                front.close()
                return

    def _take(self, front: Any, calls: list[tuple[int, int, int, bytes | None, str | None]]) -> None:
        requests: list[tuple[int, Admission]] = []
        size = 0
        for _, call_id, _, message, _ in calls:
            if message is None:
                self._cancel(call_id)
                continue
            admission = self._admit(front, call_id, message)
            if admission is not None:
                requests.append((call_id, admission))
                size += len(message)
                if size >= _BYTES:
                    self._push(front, requests, size)
                    requests, size = [], 0
        if requests:
            self._push(front, requests, size)

    def _cancel(self, call_id: int) -> None:
        """The client left: what is being ingested for it is not pushed; what was pushed goes on, as with grpcio."""
        task = self._ingesting.get(call_id)
        if task is not None:
            task.cancel()

    def _admit(self, front: Any, call_id: int, message: bytes) -> Admission | None:
        """Return what may be pushed; None where the call is answered already or an ingestor reads it beside."""
        try:
            if self._stopping:
                raise DrainingError("the pipeline is stopping; send to another gateway, or again later")
            request = self._intake.parse(message)
            admission = self._intake.admit(request, len(message))
        except (DrainingError, InputError) as error:
            _fail(front, call_id, status_of(error))
            return None
        except BaseException as error:  # the calls that came with it must not go without an answer for it
            _fail(front, call_id, _failure(error))
            return None
        if admission is None:
            task = asyncio.ensure_future(self._ingest(front, call_id, request, len(message)))
            self._ingesting[call_id] = task
            task.add_done_callback(lambda _: self._ingesting.pop(call_id, None))
        return admission

    async def _ingest(self, front: Any, call_id: int, request: IngestEvent, size: int) -> None:
        context = IngestContext(request.source, request.cluster, request.format)
        try:
            with self._intake.reading(size):
                admission = await self._intake.admit_raw(request.raw, context, request.source)
        except InputError as error:
            _fail(front, call_id, status_of(error))
            return
        except BaseException as error:
            if is_ours(error):
                raise
            _fail(front, call_id, _failure(error))
            return
        await self._answer(front, [(call_id, admission)], size)

    def _push(self, front: Any, requests: list[tuple[int, Admission]], size: int) -> None:
        answering = start_eagerly(self._answer(front, requests, size))
        if not answering.done():
            self._pushing.add(answering)
            answering.add_done_callback(self._pushing.discard)

    async def _answer(self, front: Any, requests: list[tuple[int, Admission]], size: int) -> None:
        try:
            acks = await self._intake.together([admission for _, admission in requests], size)
            self._respond(front, requests, acks)
        except BaseException as error:
            if is_ours(error):
                raise
            failure = _failure(error)
            for call_id, _ in requests:  # a call that has its answer takes no second one
                _fail(front, call_id, failure)

    def _respond(self, front: Any, requests: list[tuple[int, Admission]], acks: list[Ack]) -> None:
        for (call_id, _), ack in zip(requests, acks, strict=True):
            try:
                check_answer(ack)
            except InputError as error:
                _fail(front, call_id, status_of(error))
                continue
            front.respond(call_id, bounded(ack).SerializeToString())


def _next_calls(front: Any) -> list[tuple[int, int, int, bytes | None, str | None]] | None:
    """Return the calls that have come; None once the port is closed."""
    while True:
        try:
            calls: list[tuple[int, int, int, bytes | None, str | None]] | None = front.recv_batch(_CALLS)
        except BaseException:  # the thread must live as long as the port, or nobody gets an answer any more
            _REPEATED.exception("receive", "the fast door could not receive calls")
            time.sleep(_AGAIN_SECONDS)
        else:
            return calls


def _failure(error: BaseException) -> Failure:
    _REPEATED.exception("answer", "the fast door could not answer")
    return Failure(grpc.StatusCode.INTERNAL, named(error))


def _fail(front: Any, call_id: int, failure: Failure) -> None:
    metadata = [pair for pair in failure.metadata if not pair[0].startswith("grpc-")]
    front.fail(call_id, failure.status.value[0], failure.details, metadata)
