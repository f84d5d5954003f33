"""The running form of the ExternalIngestor: bytes to the plugin, its events and errors back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from polku.codes import Code
from polku.contracts import IngestContext
from polku.emit.grpc.size import read_excess
from polku.errors import InputError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.external.client import CallError, PluginClient, PluginState
from polku.external.connection import PluginConnection
from polku.external.info_checks import ingestor_fault
from polku.v1.plugin_pb2 import IngestError, IngestRequest, IngestResponse

if TYPE_CHECKING:
    from polku.security.account import Account

_CODES = {
    grpc.StatusCode.UNAVAILABLE: Code.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Code.UNAVAILABLE,
    grpc.StatusCode.ABORTED: Code.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID_RECORD,
    grpc.StatusCode.OUT_OF_RANGE: Code.INVALID_RECORD,
}


class PluginIngestor:
    """Call `Ingest`; up to `concurrency` calls are in flight at once, the others wait.

    With an `account` the plugin's events are of the sources that its principal may send; others are refused by name.
    """

    def __init__(
        self, sources: Sequence[str], connection: PluginConnection, concurrency: int, account: Account | None = None
    ) -> None:
        self.concurrency = concurrency
        self._account = account
        self._connection = connection
        self._client = PluginClient("IngestorPlugin", connection, lambda info: ingestor_fault(info, sources))
        self._places = asyncio.Semaphore(concurrency)

    async def start(self) -> None:
        """Begin to connect."""
        await self._client.start()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def ingest(self, data: bytes, context: IngestContext) -> Iterable[Event | RecordError]:
        """Return the plugin's events and errors, made as they are read; raises `InputError` where `data` is refused."""
        source, cluster, form = context[:3]
        request = IngestRequest(source=source, cluster=cluster, format=form, data=data).SerializeToString()
        try:
            async with self._places:
                answer = await self._client.call("Ingest", request)
            return self._read(answer)
        except CallError as error:
            raise self._refuse(error, source) from None

    def state(self) -> PluginState:
        """Return how the plugin is."""
        return self._client.state()

    def _read(self, answer: bytes) -> Iterable[Event | RecordError]:
        try:
            response = IngestResponse.FromString(answer)
        except DecodeError as error:
            text = f"Ingest: the answer is no IngestResponse ({error})"
            raise self._client.fault(grpc.StatusCode.INTERNAL, text) from None
        return chain(self._allowed(response.events), map(_record_error, response.errors))

    def _allowed(self, events: Iterable[Event]) -> Iterable[Event | RecordError]:
        account = self._account
        if account is None or account.sources.take_all:
            return events
        return (
            event
            if not event.source or account.sources.fit(event.source)
            else RecordError(
                account.origin_fault("source", event.source), event_id=event.id, code=Code.PERMISSION_DENIED
            )
            for event in events
        )

    def _refuse(self, error: CallError, source: str) -> InputError:
        code = _CODES.get(error.status, Code.INGESTOR_ERROR)
        text = f"ingestor for source={source!r}: {error}"
        excess = read_excess(error.text) if error.status is grpc.StatusCode.RESOURCE_EXHAUSTED else None
        if excess and excess.limit == self._connection.max_answer_bytes:
            fix = "answer with less, or set ExternalIngestor(max_answer_bytes=...)"
            return InputError(Code.INGESTOR_ERROR, f"{text}; {fix}")
        if excess:
            fix = f"the plugin takes {excess.limit} bytes; send less, or raise its receive limit"
            return InputError(Code.TOO_LARGE, f"{text}; {fix}")
        return InputError(code, text)


def _record_error(error: IngestError) -> RecordError:
    details = f" ({error.details})" if error.details else ""
    return RecordError(f"offset {error.offset}: {error.message}{details}", offset=error.offset)
