"""What the gRPC doors share: which status an error is, and what a connection has seen so far."""

from __future__ import annotations

from collections import OrderedDict

from polku.batch.receipt import Counts
from polku.codes import Code
from polku.errors import DrainingError, InputError
from polku.gateway.intake import Intake
from polku.gateway.retry_hints import RETRY_SECONDS
from polku.rpc.status import Status, StatusCode
from polku.text import line, said
from polku.v1.gateway_pb2 import Ack

_CONNECTIONS = 1024
_DETAILS = 1_000  # they are a header, and clients take 8 KiB of headers
_STATUS = {
    Code.BUFFER_FULL: StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    Code.RATE_LIMITED: StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: StatusCode.PERMISSION_DENIED,
    Code.DRAINING: StatusCode.UNAVAILABLE,
    Code.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Code.INGESTOR_ERROR: StatusCode.INTERNAL,
    Code.UNSUPPORTED: StatusCode.UNIMPLEMENTED,
}


def status_of(error: DrainingError | InputError) -> Status:
    """Return the status that tells a client of an error."""
    if isinstance(error, DrainingError):
        return Status(StatusCode.UNAVAILABLE, said(error), retry_seconds=RETRY_SECONDS[Code.DRAINING])
    code = _STATUS.get(error.code, StatusCode.INVALID_ARGUMENT)
    message = f"{error.code}: {line(error.message, _DETAILS)}"
    return Status(code, message, retry_seconds=RETRY_SECONDS.get(error.code))


def check_answer(ack: Ack) -> None:
    """Raise `InputError` where nothing was accepted since the client must wait, or has no right to any of it."""
    if ack.errors and not ack.event_ids:
        codes = {error.code for error in ack.errors}
        for code in (Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING, Code.PERMISSION_DENIED):
            if codes == {code}:
                raise InputError(code, ack.errors[0].message)


class Baselines:
    """Remember the counters as they were when each connection first called; the latest 1,024 are remembered."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._counts: OrderedDict[str, Counts] = OrderedDict()

    def of(self, peer: str) -> Counts:
        """Return the counters as they were when this peer first called."""
        if peer not in self._counts:
            self._counts[peer] = self._intake.counts
            if len(self._counts) > _CONNECTIONS:
                self._counts.popitem(last=False)
        return self._counts[peer]
