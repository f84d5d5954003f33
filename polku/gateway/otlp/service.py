"""Take requests of OTLP in, and say what the specification has a server say.

A request that is refused as a whole is an error, and whether the client may send it again is part of that. Of a request
that is taken in part the client is told how many records are refused, and it must not send any of it again: so those
become dead letters. Where it is not known what became of a part, the client has to send all of it again, and some of
the records then come twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from polku.aio.slices import in_slices
from polku.batch.batch import Batch
from polku.batch.frames import split_frames
from polku.batch.receipt import Receipt, Refusal
from polku.codes import Code
from polku.contracts import DeadEvent, IngestContext
from polku.errors import DrainingError, InputError, PlanError
from polku.event.v1.event_pb2 import Event
from polku.gateway.admission import Admission, admit_events
from polku.gateway.authorization import authorizing
from polku.gateway.intake import Intake
from polku.limits import Limits
from polku.log import RepeatedLog
from polku.otlp.ingestor import READER, Granularity, OtlpIngestor, request_event
from polku.otlp.signals import Signal, check_installed
from polku.security.account import Account
from polku.text import line, named, trace
from polku.usercode import is_ours

if TYPE_CHECKING:
    from polku.otlp.reading import Transcoded

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_AGAIN = frozenset((Code.UNAVAILABLE, Code.DRAINING))
_MESSAGE = 900  # characters: with more, nothing that says when to come again would fit into the trailers
_REASONS = 3
_SEND_AGAIN = "; send again later"  # what a buffer says that has no room


class ExportResult(Struct, frozen=True):
    """The answer to a request that was taken: `rejected` records (data points of metrics) are not, and why."""

    rejected: int = 0
    message: str = ""


class OtlpService:
    """Answer `Export` of each signal, over whatever it came."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def export(
        self, signal: Signal, body: bytes, account: Account | None, *, cluster: str = "", is_json: bool = False
    ) -> ExportResult:
        """Take a serialised request; raises `InputError` and `DrainingError` where all of it is refused.

        A fault of ours is `UNAVAILABLE`: as an internal error a client would not send the request again, and whether
        the records were taken is not known.
        """
        request = _Request(self._intake, signal, account, cluster)
        try:
            admission, receipt = await self._intake.settle(len(body), lambda: request.admit(body, is_json=is_json))
            return await self._answer(request, admission, receipt)
        except (InputError, DrainingError):
            raise
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("answer", "a request of OTLP could not be answered")
            reason = f"the gateway failed: {named(error)}; whether it took the records is unknown"
            raise InputError(Code.UNAVAILABLE, reason) from error

    async def _answer(self, request: _Request, admission: Admission, receipt: Receipt) -> ExportResult:
        late = receipt.refused if admission.ids else ()
        refused = [*admission.refused, *late]
        if not refused:
            return ExportResult()
        codes = {refusal.code for refusal in refused}
        first = refused[0]
        if again := next((refusal for refusal in refused if refusal.code in _AGAIN), None):
            raise InputError(again.code, line(again.message, _MESSAGE))
        nothing_taken = len(late) == len(admission.ids)
        if (nothing_taken and codes <= {Code.BUFFER_FULL}) or (nothing_taken and codes <= {Code.PERMISSION_DENIED}):
            raise InputError(first.code, line(first.message, _MESSAGE))
        await self._intake.bury([*request.dead, *_dropped(admission, late)])
        taken = set(admission.ids) - {admission.ids[refusal.position] for refusal in late}
        weights = request.weights()
        return ExportResult(request.weight - sum(weights.get(event_id, 1) for event_id in taken), _reasons(refused))


class _Request:
    """One request: what of it becomes events, and for how much each of them counts in the answer."""

    def __init__(self, intake: Intake, signal: Signal, account: Account | None, cluster: str) -> None:
        self._intake = intake
        self._signal = signal
        self._account = account
        self._cluster = cluster
        self.dead: list[DeadEvent] = []
        self.weight = 0
        self._done: Transcoded | None = None

    async def admit(self, body: bytes, *, is_json: bool) -> Admission:
        """Return the events; raises `InputError`."""
        try:
            check_installed()
        except PlanError as error:
            raise InputError(Code.UNSUPPORTED, error.message) from None
        if is_json:
            from polku.otlp.json import read_json

            body = await in_slices(read_json(self._signal, body))
        ingestor = self._intake.ingestors.own(READER)
        if not isinstance(ingestor, OtlpIngestor) or type(ingestor).ingest is not OtlpIngestor.ingest:
            return await self._admit_foreign(body)
        if ingestor.granularity is Granularity.REQUEST:
            return await self._admit_whole(body)
        limits = self._intake.limits
        from polku.otlp.reading import transcode  # by the first request: a gateway is ready sooner

        reading = transcode(self._signal, body, limits, ingestor.choice, cluster=self._cluster)
        return await self._admit_records(await in_slices(reading))

    def weights(self) -> dict[str, int]:
        """Return for how much records count, by id; those that are missing count for one."""
        return {} if self._done is None else dict(zip(self._done.ids, self._done.weights, strict=True))

    async def _admit_records(self, done: Transcoded) -> Admission:
        self.dead = [record.dead for record in done.dead]
        self._done = done
        self.weight = sum(done.weights) + sum(record.weight for record in done.dead)
        refused = [dead.refusal for dead in self.dead]
        batch = Batch(payload=done.payload, count=len(done.ids))
        return await self._allowed(Admission(batch, done.ids, refused, done.filled_bytes), done.payload)

    async def _admit_whole(self, body: bytes) -> Admission:
        event = request_event(self._signal, body, "")
        self.weight = 1
        if not body:
            return Admission(Batch(payload=b"", count=0), [], [])
        admission = admit_events([event], "", self._cluster, self._intake.limits)
        return await self._allowed(admission)

    async def _admit_foreign(self, body: bytes) -> Admission:
        """Let a pipeline's own ingestor read the request: what it refuses becomes a dead letter of the request."""
        context = IngestContext(READER, self._cluster, self._signal.name)
        try:
            admission = await self._intake.admit_raw(body, context, READER, in_turns=True)
        except InputError as error:
            if error.code is not Code.INGESTOR_ERROR:
                raise
            return self._unread(body, error)
        self.weight = len(admission.ids) + len(admission.refused)
        self.dead = [DeadEvent(self._left_over(refusal, body), refusal) for refusal in admission.refused]
        return await self._allowed(admission)

    def _unread(self, body: bytes, error: InputError) -> Admission:
        """Make a dead letter of a request for which the ingestor failed: clients send no such request again."""
        event = request_event(self._signal, body, "")
        refusal = Refusal(event.id, error.code, error.message)
        self.weight = _weight_of(self._signal, body, self._intake.limits)
        self.dead = [DeadEvent(event, refusal, trace(error.__cause__ or error))]
        return Admission(Batch(payload=b"", count=0), [], [refusal])

    def _left_over(self, refusal: Refusal, body: bytes) -> Event:
        return Event(id=refusal.event_id, source=READER, event_type=self._signal.request_type, payload=body)

    async def _allowed(self, admission: Admission, content: bytes | None = None) -> Admission:
        if self._account is None:
            return admission
        return await in_slices(authorizing(admission, self._account, content))


def _weight_of(signal: Signal, body: bytes, limits: Limits) -> int:
    """Return for how many records (data points of metrics) a request counts; 1 where it cannot be read."""
    from polku.otlp.fields import weight_of
    from polku.otlp.wire import split

    try:
        return sum(weight_of(signal, record) for scope in split(body, limits.batch_events) for record in scope.records)
    except InputError:
        return 1


def _dropped(admission: Admission, late: tuple[Refusal, ...] | list[Refusal]) -> list[DeadEvent]:
    """Return what the buffer had no room for; whatever else is refused there is a dead letter already."""
    full = [refusal for refusal in late if refusal.code is Code.BUFFER_FULL]
    if not full:
        return []
    frames = split_frames(admission.batch.payload)
    return [DeadEvent(Event.FromString(frames[refusal.position]), refusal) for refusal in full]


def _reasons(refused: list[Refusal]) -> str:
    """Return the first of each kind of refusal, and how many there are of it. They are dead letters."""
    counts = Counter(refusal.code for refusal in refused)
    firsts = {refusal.code: refusal for refusal in reversed(refused)}
    most = counts.most_common(_REASONS)
    told = [(count, code, firsts[code].message.removesuffix(_SEND_AGAIN)) for code, count in most]
    return line("; ".join(f"{count} × {code}: {line(message, 250)}" for count, code, message in told), _MESSAGE)
