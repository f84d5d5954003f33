"""Answer requests whose events are plain: those that one turn of the event loop has brought travel as one batch.

Nothing about such a request needs an await: no task and no coroutine is made for it, its answer is made of the bytes of
those before it, and the answers of one connection are one write. A request of which anything is unusual is left to
`Events`, before any of it is counted: a source with an ingestor of its own, a body that is compressed or large, a
token that is wrong, a rate that is used up, a gateway that is full, a record that is not plain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.errors import InputError
from polku.gateway.acks import answer_events
from polku.gateway.admission import Admission
from polku.gateway.event_limits import check_envelope
from polku.gateway.http.answer import JSON, accepted_tail, accepted_written, ack_json, status_of, written
from polku.gateway.http.body import encoding_of
from polku.gateway.http.content import RawReader, reader_of
from polku.gateway.http.events import EVENTS_BYTES
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.refusal import RequestError
from polku.gateway.http.state import ServerState
from polku.gateway.http.usual import EVENTS, Shape, UsualHead
from polku.gateway.intake import Intake
from polku.gateway.plain import ReadPlain, admission_of, read_distinct

if TYPE_CHECKING:
    from polku.gateway.http.connections import HttpConnection
    from polku.security.account import Account

_BYTES = 1 << 20  # of requests that are pushed together

_MOST_WAYS = 256


class _Request(NamedTuple):
    """A request that has no answer yet: the ids of its events, and their bytes; of principals what they may send."""

    connection: HttpConnection
    closes: bool
    ids: Sequence[str]
    payload: bytes
    admission: Admission | None


class PlainRequests:
    """Take requests, push their events together at the end of the turn, and answer them."""

    def __init__(self, intake: Intake, gate: HttpGate, state: ServerState) -> None:
        self._intake = intake
        self._gate = gate
        self._state = state
        self._waiting: list[_Request] = []
        self._size = 0
        self._ways: dict[Shape, ReadPlain | None] = {}  # what reads the bodies behind heads of a shape
        self._version = -1  # of the ingestors that `_ways` is of
        self._limits = intake.limits  # and the limits

    def take(self, connection: HttpConnection, head: UsualHead, body: bytes) -> bool:
        """Take a request, and answer it later by `HttpConnection.answered`; return False where it is not plain."""
        intake, size = self._intake, len(body)
        if size > EVENTS_BYTES or intake.is_traced or not intake.room.has_room(size):
            return False
        read = self._reader(head.shape)
        if read is None:
            return False
        account: Account | None = None
        if self._gate.asks:
            try:
                account = self._gate.known(head.authorization, connection)
            except InputError:
                return False
            if account is not None and not account.may_send(head.head.source, head.head.cluster):
                return False
        plain = read_distinct(body, read, self._limits)
        if plain is None:
            return False
        admission = None
        if account is not None:
            account.count(0, size)
            admission = admission_of(plain, size, account)
        self._waiting.append(_Request(connection, head.closes, plain.ids, plain.payload, admission))
        size = max(size, len(plain.payload))
        self._size += size
        intake.room.hold(size)
        if len(self._waiting) == 1:
            self._state.begin()
            asyncio.get_running_loop().call_soon(self._leave)
        elif self._size >= _BYTES:
            self._leave()
        return True

    def _reader(self, shape: Shape) -> ReadPlain | None:
        intake = self._intake
        is_same = self._version == intake.ingestors.version and self._limits is intake.limits
        if not is_same or len(self._ways) > _MOST_WAYS:
            self._version, self._limits = intake.ingestors.version, intake.limits
            self._ways.clear()
        try:
            return self._ways[shape]
        except KeyError:
            self._ways[shape] = read = self._find_reader(shape)
            return read

    def _find_reader(self, shape: Shape) -> ReadPlain | None:
        head, ingestors = shape.head, self._intake.ingestors
        if head.path != EVENTS or (head.source and ingestors.verifies(head.source)):
            return None
        try:
            is_packed = encoding_of(head.headers.get("content-encoding", "")) != "identity"
            reader = reader_of(head, self._intake)
            if is_packed or not isinstance(reader, RawReader):
                return None
            check_envelope(self._limits, head.source, head.cluster, reader.context.format)
        except (RequestError, InputError):
            return None
        return ingestors.plain_reader(reader.source, reader.context, self._limits)

    def _leave(self) -> None:
        if not self._waiting:
            return
        waiting, size, self._waiting, self._size = self._waiting, self._size, [], 0
        self._intake.room.release(size)  # pushed, they count as its events'
        answer = self._push(waiting, size)
        if answer.done():
            self._answer(waiting, answer)
            return
        for request in waiting:
            request.connection.await_answer()
        answer.add_done_callback(partial(self._answer, waiting))

    def _push(self, waiting: Sequence[_Request], size: int) -> asyncio.Future[Receipt]:
        self._intake.count_messages(len(waiting))
        if any(request.admission for request in waiting):
            admissions = [request.admission or _admission(request) for request in waiting]
            return self._intake.sender.push_together(admissions, size, "http")
        count = sum([len(request.ids) for request in waiting])
        batch = Batch(payload=b"".join([request.payload for request in waiting]), count=count)
        return self._intake.sender.push_with_stats(batch, [], len(waiting), size, "http")

    def _answer(self, waiting: Sequence[_Request], answer: asyncio.Future[Receipt]) -> None:
        """Answer requests; those of a connection stand in the order in which they came."""
        numbers = [len(request.ids if request.admission is None else request.admission.ids) for request in waiting]
        receipt = self._intake.sender.settled(sum(numbers), answer)
        is_accepted = not (receipt.refused or receipt.fates)
        tails: dict[int, bytes] = {}
        now, start, closes_all = int(time.time()), 0, self._state.closes
        # The last answer of a connection ends it: those before it are for requests that were taken too.
        last = {one.connection: at for at, one in enumerate(waiting) if closes_all or one.connection.is_leaving}
        answers: dict[HttpConnection, list[bytes]] = {}
        closing: set[HttpConnection] = set()
        for at, (request, number) in enumerate(zip(waiting, numbers, strict=True)):
            connection, closes, ids, _, admission = request
            closes = closes or last.get(connection) == at
            if is_accepted and admission is None:
                tail = tails.get(number) or tails.setdefault(number, accepted_tail(receipt, number))
                response = accepted_written(ids, tail, now, close=closes)
            else:
                response = _written(admission or _admission(request), receipt.piece(start, number), close=closes)
            start += number
            answers.setdefault(connection, []).append(response)
            if closes:
                closing.add(connection)
        self._state.end()
        for connection, responses in answers.items():
            connection.answered(b"".join(responses), close=connection in closing)


def _admission(request: _Request) -> Admission:
    return Admission(Batch(payload=request.payload, count=len(request.ids)), list(request.ids), [])


def _written(admission: Admission, receipt: Receipt, *, close: bool) -> bytes:
    ack = answer_events(admission, receipt, with_stats=True)
    status, headers = status_of(ack)
    return written(status, {"Content-Type": JSON, **headers}, ack_json(ack), close=close)
