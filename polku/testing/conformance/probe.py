"""Call a plugin as the router would, and look at the answer before anybody trusts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from polku.emit.grpc.size import read_excess
from polku.external.connection import PluginConnection
from polku.testing.conformance.findings import Finding, fails, note

_PAUSE = 0.1  # seconds between two questions to a plugin that is busy
REFUSALS = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})


class ProbeReply(NamedTuple):
    """What came back: a message, or gRPC's status (OK with no message: the bytes were no such message)."""

    message: Any
    status: grpc.StatusCode
    details: str
    seconds: float

    @property
    def came(self) -> bool:
        """Whether there is a message."""
        return self.message is not None

    @property
    def error(self) -> str:
        """What went wrong, in a line."""
        return f"{self.status.name}: {self.details}"[:200]


class Probe:
    """Hold the connection to the plugin that is looked at."""

    def __init__(self, connection: PluginConnection) -> None:
        self._connection = connection
        tls = connection.tls()
        self._channel = connection.open(None if tls is None else tls.pems())
        self.timeout = connection.timeout

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    async def call(
        self, service: str, method: str, request: bytes, kind: Any, *, timeout: float | None = None
    ) -> ProbeReply:
        """Call a method with serialised bytes and read the answer as a message of `kind`."""
        started = time.monotonic()
        call = self._channel.unary_unary(f"/polku.v1.{service}/{method}")
        try:
            data = await call(request, timeout=timeout or self.timeout, metadata=self._connection.metadata)
            message = kind.FromString(data)
        except grpc.aio.AioRpcError as error:
            return ProbeReply(None, error.code(), error.details() or "", time.monotonic() - started)
        except DecodeError as error:
            text = f"the answer is no {kind.DESCRIPTOR.name} ({error})"
            return ProbeReply(None, grpc.StatusCode.OK, text, time.monotonic() - started)
        return ProbeReply(message, grpc.StatusCode.OK, "", time.monotonic() - started)


async def settle(again: Callable[[], Awaitable[ProbeReply]], seconds: float) -> None:
    """Wait until a plugin that was busy with a large request answers a small one within `seconds`, for up to a minute.

    Its health is no sign of that: it may be answered while the plugin still works on the large request.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = await again()
        if answer.status is not grpc.StatusCode.DEADLINE_EXCEEDED and answer.seconds <= seconds:
            return
        await asyncio.sleep(_PAUSE)


def judge_large(check: str, answer: ProbeReply, timeout: float) -> Finding | None:
    """Judge how a plugin took ten megabytes, where it did not simply answer."""
    if answer.came or answer.status in REFUSALS:
        return None
    excess = read_excess(answer.details) if answer.status is grpc.StatusCode.RESOURCE_EXHAUSTED else None
    if excess is not None:
        fix = "fine while the gateway's Limits(message_bytes) are below; else raise the server's receive limit"
        return note(check, f"refused: the plugin takes up to {excess.limit:,} bytes", fix)
    if answer.status is grpc.StatusCode.DEADLINE_EXCEEDED:
        fix = f"answer within the deadline, {timeout:g} s here; the router's is ExternalIngestor(timeout=5)"
        return note(check, f"no answer within {timeout:g} s", fix)
    return fails(check, answer.error, "take large input, or refuse it with INVALID_ARGUMENT or RESOURCE_EXHAUSTED")
