"""Call one plugin: find out who it is, watch how it is, and turn whatever goes wrong into a sentence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from polku.aio.tasks import TaskSet
from polku.errors import MisconfiguredError, PolkuError
from polku.external.connection import PluginConnection
from polku.security.client_tls import Pems
from polku.v1.plugin_pb2 import PluginHealthResponse, PluginInfo

_SOON = 1.0  # seconds until a plugin that is unhealthy is asked again
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_READY = grpc.ChannelConnectivity.READY
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class CallError(PolkuError):
    """Say why a call of a plugin failed: gRPC's status and a sentence that names the plugin's address."""

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text

    def __str__(self) -> str:
        return self.text


class PluginState(NamedTuple):
    """Return whether a plugin is well, and in a sentence who and how it is; `alarm` is empty while it is well."""

    text: str
    alarm: str
    calls: int
    failures: int
    in_flight: int


class PluginClient:
    """Call the methods of one service of a plugin.

    `check` reads what the plugin says about itself and returns what is wrong with it, or nothing. It is asked before
    the first call, and again after the connection was lost: another program may listen there by then.
    """

    def __init__(self, service: str, connection: PluginConnection, check: Callable[[PluginInfo], str]) -> None:
        self._service = service
        self._connection = connection
        self._check = check
        self._channel: Any = None
        self._tls = connection.tls()
        self._pems: Pems | None = None
        self._methods: dict[str, Any] = {}
        self._info: PluginInfo | None = None
        self._introduction: asyncio.Task[PluginInfo] | None = None
        self._tasks = TaskSet(f"plugin at {connection.address}")
        self._is_open = False
        self._complaint = ""
        self._remark = "connecting"
        self._lost = asyncio.Event()  # since health was asked for
        self._calls = self._failures = self._in_flight = 0

    async def start(self) -> None:
        """Begin to connect and to ask for its health; a plugin that is down is no error here."""
        if not self._is_open:
            self._is_open = True
            self._open()
            self._tasks.keep_alive("health", self._watch_health)
            self._tasks.keep_alive("connection", self._watch_connection)

    async def close(self) -> None:
        """Release the connection; calls that are open fail."""
        await self._tasks.close()
        self._is_open = False
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def call(self, method: str, request: bytes, timeout: float | None = None) -> bytes:
        """Return the plugin's serialised answer; raises `CallError`."""
        self._calls += 1
        self._in_flight += 1
        try:
            await self._introduce()
            return await self._ask(method, request, timeout or self._connection.timeout)
        except CallError:
            self._failures += 1
            raise
        finally:
            self._in_flight -= 1

    async def introduce(self) -> PluginInfo:
        """Return what the plugin says about itself, once it passed the check; raises `CallError`."""
        return await self._introduce()

    @property
    def is_known(self) -> bool:
        """Whether the plugin has been reached and is the right one."""
        return self._info is not None

    def state(self) -> PluginState:
        """Return how the plugin is, as far as was seen."""
        who = self._connection.address
        if self._info is not None:
            who = " ".join(part for part in (self._info.name, self._info.version, f"at {who}") if part)
        alarm = self._complaint or self._tasks.fault
        text = alarm or f"{who}: {self._remark or 'ok'}"
        return PluginState(text, alarm, self._calls, self._failures, self._in_flight)

    def fault(self, status: grpc.StatusCode, text: str) -> CallError:
        """Make the error that says what is wrong with this plugin."""
        return CallError(status, f"plugin at {self._connection.address}: {text}")

    async def _introduce(self) -> PluginInfo:
        """Read and check Info once for all calls that wait for it."""
        if self._info is not None:
            return self._info
        if self._introduction is None:
            self._introduction = asyncio.create_task(self._read_info())
            self._introduction.add_done_callback(self._introduced)
        return await asyncio.shield(self._introduction)

    def _introduced(self, task: asyncio.Task[PluginInfo]) -> None:
        self._introduction = None
        if not task.cancelled() and task.exception() is None:
            self._info = task.result()

    async def _read_info(self) -> PluginInfo:
        answer = await self._ask("Info", b"", self._connection.timeout)
        try:
            info = PluginInfo.FromString(answer)
        except DecodeError as error:
            raise self.fault(grpc.StatusCode.UNIMPLEMENTED, f"Info: the answer is no PluginInfo ({error})") from None
        complaint = self._check(info)
        if complaint:
            raise self.fault(grpc.StatusCode.UNIMPLEMENTED, complaint)
        return info

    async def _ask(self, method: str, request: bytes, timeout: float) -> bytes:
        try:
            metadata = self._connection.metadata
            answer: bytes = await self._method(method)(request, timeout=timeout, metadata=metadata)
        except MisconfiguredError as error:
            raise self.fault(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        except grpc.aio.AioRpcError as error:
            if error.code() in _LOST:
                self._forget()
            raise self._explain(method, timeout, error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Otherwise it was the call that was cancelled: its channel was closed.
            raise self.fault(grpc.StatusCode.UNAVAILABLE, f"{method}: the connection was closed") from None
        except grpc.aio.UsageError:
            raise self.fault(grpc.StatusCode.UNAVAILABLE, f"{method}: the connection was closed") from None
        return answer

    def _explain(self, method: str, timeout: float, error: grpc.aio.AioRpcError) -> CallError:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self.fault(error.code(), f"{method}: no answer within {timeout:g} s")
        return self.fault(error.code(), f"{method}: {error.code().name}: {error.details()}")

    def _method(self, name: str) -> Any:
        if name not in self._methods or self._channel is None:
            self._methods[name] = self._open().unary_unary(f"/polku.v1.{self._service}/{name}")
        return self._methods[name]

    def _open(self) -> Any:
        if self._channel is None:
            try:
                self._pems = None if self._tls is None else self._tls.pems()
            except ConnectionError as error:
                raise self.fault(grpc.StatusCode.UNAVAILABLE, str(error)) from None
            self._channel = self._connection.open(self._pems)
            self._methods.clear()
        return self._channel

    async def _watch_connection(self) -> None:
        """Forget what the plugin said when the connection is lost, and look at the certificates until there is another.

        A channel that has failed to connect stays in that state through all further attempts (gRFC A62), so that no
        change would tell of them.
        """
        state = self._channel.get_state(try_to_connect=True)
        self._tasks.works("connection")
        while state is not _SHUTDOWN:
            if state is _FAILED:
                await asyncio.sleep(_SOON)
            else:
                await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)
            if state is not _READY:
                self._forget()
                await self._renew()

    def _forget(self) -> None:
        """Forget what the plugin said: the connection is lost, so its health is asked for at once."""
        if self._info is not None:
            self._info = None
            self._lost.set()

    async def _renew(self) -> None:
        """Open another channel where the files of its certificates have changed."""
        if self._tls is not None and self._tls.pems() != self._pems:
            channel, self._channel = self._channel, None
            await channel.close()
            self._open()

    async def _watch_health(self) -> None:
        while True:
            self._lost.clear()
            try:
                self._complaint, self._remark = await self._read_health()
            except CallError as error:
                self._complaint = str(error)
            self._tasks.works("health")
            interval = self._connection.health_interval
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_SOON, interval) if self._complaint else interval):
                    await self._lost.wait()

    async def _read_health(self) -> tuple[str, str]:
        await self._introduce()
        answer = await self._ask("Health", b"", self._connection.timeout)
        try:
            health = PluginHealthResponse.FromString(answer)
        except DecodeError as error:
            text = f"Health: the answer is no PluginHealthResponse ({error})"
            raise self.fault(grpc.StatusCode.INTERNAL, text) from None
        if health.healthy:
            return "", health.message
        unhealthy = ", ".join(sorted(name for name, well in health.components.items() if not well))
        reason = "; ".join(part for part in (health.message, unhealthy and f"unhealthy: {unhealthy}") if part)
        return str(self.fault(grpc.StatusCode.UNAVAILABLE, f"says that it is not healthy: {reason or 'no reason'}")), ""


async def ask_once(service: str, connection: PluginConnection, check: Callable[[PluginInfo], str]) -> PluginInfo:
    """Call Info of a plugin and release it; raises `CallError`."""
    client = PluginClient(service, connection, check)
    try:
        return await client.introduce()
    finally:
        with contextlib.suppress(Exception):
            await client.close()
