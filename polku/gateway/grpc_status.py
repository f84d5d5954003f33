"""What the gRPC doors share: which status an error is, and what a connection has seen so far."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import grpc

from polku.batch.receipt import Counts
from polku.codes import Code
from polku.errors import DrainingError, InputError
from polku.gateway.intake import Intake
from polku.gateway.retry import RETRY_SECONDS
from polku.text import line, said
from polku.v1.gateway_pb2 import Ack

_CONNECTIONS = 1024
_DETAILS = 1_000  # they are a header, and clients take 8 KiB of headers
_STATUS = {
    Code.BUFFER_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.INGESTOR_ERROR: grpc.StatusCode.INTERNAL,
}


class Failure(NamedTuple):
    """How a call ends that is not answered."""

    status: grpc.StatusCode
    details: str
    retry_seconds: float | None = None  # after which sending it again may help


def status_of(error: DrainingError | InputError) -> Failure:
    """Return the status that tells a client of an error."""
    if isinstance(error, DrainingError):
        return Failure(grpc.StatusCode.UNAVAILABLE, said(error), RETRY_SECONDS[Code.DRAINING])
    status = _STATUS.get(error.code, grpc.StatusCode.INVALID_ARGUMENT)
    return Failure(status, f"{error.code}: {line(error.message, _DETAILS)}", RETRY_SECONDS.get(error.code))


def check_answer(ack: Ack) -> None:
    """Raise `InputError` where nothing was accepted and trying again later may help."""
    if ack.errors and not ack.event_ids:
        codes = {error.code for error in ack.errors}
        for code in (Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING):
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
