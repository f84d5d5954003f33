"""`SendEvent`: the calls that one read brought are pushed as one batch, and answered one by one."""

from __future__ import annotations

import asyncio
import logging

from msgspec import Struct

from polku.aio.eager import start_eagerly
from polku.aio.slices import in_slices
from polku.errors import DrainingError, InputError
from polku.gateway.ack_size import bounding
from polku.gateway.admission import Admission
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.grpc_status import Baselines, check_answer, status_of
from polku.gateway.intake import Intake
from polku.gateway.requests import Large
from polku.log import RepeatedLog
from polku.rpc.status import Status, StatusCode
from polku.security.account import Account
from polku.text import named
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack, IngestEvent

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_BYTES = 1 << 20  # pushed together: the limit on open bytes is passed by no more than this


class _Request(Struct, frozen=True):
    """One call: where its answer goes, and what may be pushed of it."""

    number: int
    admission: Admission


class SendEvent:
    """Answer unary calls with events."""

    def __init__(self, intake: Intake, baselines: Baselines) -> None:
        self._intake = intake
        self._baselines = baselines
        self._open: set[asyncio.Future[None]] = set()
        self.is_stopping = False

    def calls(self, connection: GrpcConnection, calls: list[tuple[int, bytes]]) -> None:
        """Take the calls that have come at once."""
        self._baselines.of(connection.peer)  # a stream counts since its connection first called
        account = connection.account
        requests: list[_Request] = []
        size = 0
        for number, message in calls:
            admission = self._admit(connection, number, message, account)
            if admission is not None:
                requests.append(_Request(number, admission))
                size += len(message) + admission.filled_bytes
                if size >= _BYTES:
                    self._push(connection, requests, size)
                    requests, size = [], 0
        if requests:
            self._push(connection, requests, size)

    def _admit(
        self, connection: GrpcConnection, number: int, message: bytes, account: Account | None
    ) -> Admission | None:
        """Return what may be pushed; None where the call has its answer, or an ingestor reads it in a task."""
        try:
            if self.is_stopping:
                raise DrainingError("the pipeline is stopping; send to another gateway, or again later")
            request = self._intake.parse(message, account)
            admission = self._intake.admit(request, len(message), account)
        except BaseException as error:  # the calls that came with it must not go without an answer for it
            if is_ours(error):
                raise
            connection.refuse(number, _status_of(error))
            return None
        if admission is None:
            self._keep(start_eagerly(self._ingest(connection, number, request, len(message), account)))
        return admission

    async def _ingest(
        self, connection: GrpcConnection, number: int, request: IngestEvent | Large, size: int, account: Account | None
    ) -> None:
        try:
            admission = await self._intake.ingest(request, size, account)
        except BaseException as error:
            if is_ours(error):
                raise
            connection.refuse(number, _status_of(error))
            return
        await self._answer(connection, [_Request(number, admission)], size + admission.filled_bytes)

    def _push(self, connection: GrpcConnection, requests: list[_Request], size: int) -> None:
        self._keep(start_eagerly(self._answer(connection, requests, size)))

    def _keep(self, work: asyncio.Future[None]) -> None:
        if not work.done():
            self._open.add(work)
            work.add_done_callback(self._open.discard)

    async def _answer(self, connection: GrpcConnection, requests: list[_Request], size: int) -> None:
        try:
            acks = await self._intake.together([request.admission for request in requests], size)
            await self._respond(connection, requests, acks)
        except BaseException as error:
            if is_ours(error):
                raise
            status = _status_of(error)
            for request in requests:  # a call that has its answer takes no second one
                connection.refuse(request.number, status)

    async def _respond(self, connection: GrpcConnection, requests: list[_Request], acks: list[Ack]) -> None:
        for request, ack in zip(requests, acks, strict=True):
            try:
                check_answer(ack)
            except InputError as error:
                connection.refuse(request.number, _status_of(error))
                continue
            connection.respond(request.number, (await in_slices(bounding(ack))).SerializeToString())


def _status_of(error: BaseException) -> Status:
    if isinstance(error, (DrainingError, InputError)):
        return status_of(error)
    _REPEATED.exception("answer", "a call could not be answered")
    return Status(StatusCode.INTERNAL, named(error))
