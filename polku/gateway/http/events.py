"""What becomes of the body of a `POST /v1/events`, however it was read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from polku.aio.slices import in_slices
from polku.codes import Code
from polku.contracts import Reply
from polku.errors import DrainingError, InputError
from polku.gateway.admission import Admission
from polku.gateway.http.answer import JSON, ack_json, status_of, writing_ack
from polku.gateway.http.body import BodyReader, encoding_of
from polku.gateway.http.connections import HttpConnection
from polku.gateway.http.content import Admit, Head, reader_of, verified_reader
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.refusal import RequestError, counted
from polku.gateway.http.together import Together
from polku.gateway.http.usual import UsualHead
from polku.gateway.intake import Intake
from polku.log import RepeatedLog
from polku.security.account import Account
from polku.text import line
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack, AckError

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_UNSNIFFED = {"X-Content-Type-Options": "nosniff"}  # no browser may take an answer for a page of another type
_MESSAGE = 1_000
EVENTS_BYTES = 64 * 1024
"""Events of no larger bodies travel with those of others."""

Read = Callable[[str], Awaitable[bytes]]
"""Read a body that is in an encoding."""


class HttpAnswer(Struct, frozen=True):
    """A status, the headers that go with it, and a body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Request(Struct, frozen=True):
    """What a request has come with: `read` reads its body, in an encoding, and raises `RequestError`."""

    head: Head
    authorization: str
    transport: asyncio.BaseTransport | None
    connection: HttpConnection | None
    read: Read


class _Received(NamedTuple):
    """A body, whose it is, what makes events of it, what it came with, and the encoding that it had."""

    account: Account | None
    admit: Admit
    head: Head
    body: bytes
    encoding: str


class Events:
    """Take the events of requests."""

    def __init__(self, intake: Intake, gate: HttpGate, bodies: BodyReader) -> None:
        self._intake = intake
        self._gate = gate
        self._bodies = bodies
        self._together = Together(intake)

    async def post(self, request: Request) -> Ack | Reply:
        """Take the events of a request, and return its answer; raises `RequestError`."""
        try:
            ack, reply = await self._take(request)
        except DrainingError as error:
            return self.refuse(Code.DRAINING, str(error))
        except InputError as error:
            return self.refuse(error.code, error.message)
        return ack if reply is None or ack.errors else reply

    async def post_usual(self, connection: HttpConnection, usual: UsualHead, body: bytes) -> HttpAnswer:
        """Answer a request that no framework has read."""

        async def read(encoding: str) -> bytes:
            self._bodies.check_length(len(body))
            return await self._bodies.decompress(body, encoding)

        try:
            request = Request(usual.head, usual.authorization, connection.transport, connection, read)
            taken = await self.post(request)
        except RequestError as error:
            body = ack_json(self.refuse(error.code, error.message))
            return HttpAnswer(error.status, {"Content-Type": JSON, **error.headers}, body)
        except BaseException as error:
            if is_ours(error):
                raise
            return HttpAnswer(500, {"Content-Type": JSON}, ack_json(self.failed("POST", usual.head.path, error)))
        return await answer_of(taken)

    async def _take(self, request: Request) -> tuple[Ack, Reply | None]:
        with counted(self._intake, "http"):
            account, admit, head, body, encoding = await self._read(request)
        reply: Reply | None = None

        async def admit_allowed() -> Admission:
            nonlocal reply
            if account is not None:
                account.count(0, len(body))
            admission = await admit(body, account)
            reply = admission.reply
            if self._intake.is_traced:
                admission.batch.trace = head.headers.get("traceparent", "")
            return admission

        if encoding == "identity" and len(body) <= EVENTS_BYTES:
            admission = await self._intake.read(len(body), admit_allowed, "http")
            return await self._together.push(admission, len(body)), reply
        return await self._intake.request(len(body), admit_allowed), reply

    async def _read(self, request: Request) -> _Received:
        """Read the body of a request that may send; raises `RequestError`, and `InputError`."""
        head = request.head
        admit = verified_reader(head, self._intake)
        if admit is None:
            account = await self._gate.identify(request.authorization, request.transport, request.connection)
            head = _without_token(head) if self._gate.asks else head
        else:
            account = self._gate.signed(head.source)
        encoding = encoding_of(head.headers.get("content-encoding", ""))
        if account is not None:
            account.check_rate()
            account.check_origin(head.source, head.cluster)
        admit = admit or reader_of(head, self._intake)
        body = await request.read(encoding)
        return _Received(account, admit, head, body, encoding)

    def refuse(self, code: Code, message: str) -> Ack:
        """Return the Ack of a request of which nothing is taken."""
        latest = self._intake.statistics().latest
        error = AckError(code=code, message=line(message, _MESSAGE))
        return Ack(errors=[error], buffer_size=latest.buffer_size, buffer_capacity=latest.buffer_capacity)

    def failed(self, method: str, path: str, error: BaseException) -> Ack:
        """Return the Ack of a request that met a fault of ours, and log that."""
        _REPEATED.exception("failed", "%s %s failed", line(method), line(path))
        reason = f"the gateway failed: {type(error).__name__}; whether it took the events is unknown"
        return self.refuse(Code.UNAVAILABLE, reason)


async def answer_of(taken: Ack | Reply) -> HttpAnswer:
    """Return the answer to a request whose events were taken, or refused."""
    if isinstance(taken, Reply):
        body = taken.body.encode() if isinstance(taken.body, str) else taken.body
        return HttpAnswer(200, {**_UNSNIFFED, "Content-Type": taken.media_type}, body)
    status, headers = status_of(taken)
    return HttpAnswer(status, {"Content-Type": JSON, **headers}, await in_slices(writing_ack(taken)))


def _without_token(head: Head) -> Head:
    """Return what an ingestor may see of a request: not the token, which is between the client and the port."""
    return replace(head, headers={name: value for name, value in head.headers.items() if name != "authorization"})
