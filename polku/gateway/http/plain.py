"""Answer requests whose events are plain: those that one turn of the event loop has brought travel as one batch.

Nothing about such a request needs an await: no task and no coroutine is made for it, its answer is made of the bytes of
those before it, and the answers of one connection are one write. A request of which anything is unusual is left to
`Events`, before any of it is counted: a source with an ingestor of its own, a body that is compressed or large, a
token that is wrong, a rate that is used up, a gateway that is full, a record that is not plain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from polku.batch.receipt import Receipt
from polku.contracts import IngestContext
from polku.errors import InputError
from polku.gateway.acks import answer_events
from polku.gateway.admission import Admission
from polku.gateway.http.answer import JSON, accepted_tail, accepted_written, ack_json, status_of, written
from polku.gateway.http.body import encoding_of
from polku.gateway.http.content import RawReader, reader_of
from polku.gateway.http.events import EVENTS_BYTES
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.refusal import RequestError
from polku.gateway.http.state import ServerState
from polku.gateway.http.usual import EVENTS, Shape, UsualHead
from polku.gateway.intake import Intake
from polku.gateway.plain import ReadPlain, admit_plain
from polku.log import RepeatedLog

if TYPE_CHECKING:
    from polku.gateway.http.connections import HttpConnection
    from polku.security.account import Account

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_BYTES = 1 << 20  # pushed together: the limit on open bytes is passed by no more than this

_MOST_WAYS = 256


class _Way(NamedTuple):
    """What reads the bodies of requests with heads of one shape; None: they are not plain."""

    context: IngestContext
    read: ReadPlain


class _Request(NamedTuple):
    """A request that has no answer yet."""

    connection: HttpConnection
    admission: Admission
    closes: bool


class PlainRequests:
    """Take requests, push their events together at the end of the turn, and answer them."""

    def __init__(self, intake: Intake, gate: HttpGate, state: ServerState) -> None:
        self._intake = intake
        self._gate = gate
        self._state = state
        self._waiting: list[_Request] = []
        self._size = 0
        self._ways: dict[Shape, _Way | None] = {}
        self._known = -1  # the version of the ingestors that `_ways` is of

    def take(self, connection: HttpConnection, head: UsualHead, body: bytes) -> bool:
        """Take a request, and answer it later by `HttpConnection.answered`; return False where it is not plain."""
        intake, size = self._intake, len(body)
        if size > EVENTS_BYTES or intake.is_traced or not intake.has_room(size):
            return False
        try:
            way = self._way(head.shape)
            if way is None:
                return False
            account = None if not self._gate.asks else self._gate.known(head.authorization, connection)
            if account is not None and not account.may_send(head.head.source, head.head.cluster):
                return False
            admission = self._admit(body, way, account)
        except InputError:
            return False
        if admission is None:
            return False
        self._state.begin()
        intake.count_message()
        size += admission.filled_bytes
        intake.hold(size)
        self._waiting.append(_Request(connection, admission, head.closes))
        self._size += size
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._leave)
        elif self._size >= _BYTES:
            self._leave()
        return True

    def _admit(self, body: bytes, way: _Way, account: Account | None) -> Admission | None:
        admission = admit_plain(body, way.context, way.read, self._intake.limits, account)
        if admission is not None and account is not None:
            account.count(0, len(body))
        return admission

    def _way(self, shape: Shape) -> _Way | None:
        ingestors = self._intake.ingestors
        if self._known != ingestors.version or len(self._ways) > _MOST_WAYS:
            self._known = ingestors.version
            self._ways.clear()
        try:
            return self._ways[shape]
        except KeyError:
            self._ways[shape] = way = self._find_way(shape)
            return way

    def _find_way(self, shape: Shape) -> _Way | None:
        head, ingestors = shape.head, self._intake.ingestors
        if head.path != EVENTS or (head.source and ingestors.verifies(head.source)):
            return None
        try:
            is_packed = encoding_of(head.headers.get("content-encoding", "")) != "identity"
            reader = reader_of(head, self._intake)
        except RequestError:
            return None
        if is_packed or not isinstance(reader, RawReader):
            return None
        read = ingestors.reads_plain(reader.source)
        return None if read is None else _Way(reader.context._replace(headers={}), read)

    def _leave(self) -> None:
        if not self._waiting:
            return
        waiting, size, self._waiting, self._size = self._waiting, self._size, [], 0
        self._intake.release(size)  # pushed, they count as its events'
        answer = self._intake.push_together([request.admission for request in waiting], size, "http")
        if answer.done():
            self._answer(waiting, answer)
            return
        for request in waiting:
            request.connection.await_answer()
        answer.add_done_callback(partial(self._answer, waiting))

    def _answer(self, waiting: Sequence[_Request], answer: asyncio.Future[Receipt]) -> None:
        """Answer requests; those of a connection stand in the order in which they came."""
        count = sum([len(request.admission.ids) for request in waiting])
        receipt = self._intake.settled(count, answer)
        is_accepted = not (receipt.refused or receipt.fates)
        tails: dict[int, bytes] = {}
        now, start, closes_all = int(time.time()), 0, self._state.closes
        answers: dict[HttpConnection, list[bytes]] = {}
        closing: set[HttpConnection] = set()
        for connection, admission, closes in waiting:
            closes = closes or closes_all
            number = len(admission.ids)
            if is_accepted and not admission.refused and number:
                tail = tails.get(number) or tails.setdefault(number, accepted_tail(receipt, number))
                response = accepted_written(admission.ids, tail, now, close=closes)
            else:
                response = _written(admission, receipt.part(start, number), close=closes)
            start += number
            answers.setdefault(connection, []).append(response)
            if closes:
                closing.add(connection)
        for connection, responses in answers.items():
            for _ in responses:
                self._state.end()
            connection.answered(b"".join(responses), close=connection in closing)


def _written(admission: Admission, receipt: Receipt, *, close: bool) -> bytes:
    ack = answer_events(admission, receipt, counted=True)
    status, headers = status_of(ack)
    return written(status, {"Content-Type": JSON, **headers}, ack_json(ack), close=close)
