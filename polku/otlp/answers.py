"""Read what a server of OTLP answers, and tell what is to be done about it."""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from polku.emit.grpc.size import is_excess_of_unknown_size, read_excess
from polku.emit.parts import RefusedPartError, TooLargeError
from polku.errors import EmitError, MisconfiguredError, RetryableError
from polku.otlp.signals import Signal
from polku.rpc.status import Status, StatusCode
from polku.text import line

_AGAIN = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
_MISCONFIGURED = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED})


class PartialSuccess(NamedTuple):
    """What a server says of a request that it took: how many records (data points of metrics) it did not take, and why.

    A message without a number is a warning.
    """

    rejected: int = 0
    message: str = ""


def read_partial(signal: Signal, body: bytes) -> PartialSuccess:
    """Read a serialised `Export…ServiceResponse`; what cannot be read of an answer is a success."""
    if not body:
        return PartialSuccess()
    kind = {"logs": "Logs", "traces": "Trace", "metrics": "Metrics"}[signal.name]
    try:
        found: Any = getattr(signal.calls, f"Export{kind}ServiceResponse").FromString(body).partial_success
    except DecodeError:
        return PartialSuccess()
    return PartialSuccess(getattr(found, signal.rejected), line(found.error_message))


def grpc_error(where: str, status: Status) -> EmitError:
    """Return the error that a status means to a client, as the specification of OTLP has it."""
    text = f"{where}: {StatusCode(status.code).name}: {status.message or 'no reason is given'}"
    if status.code in _MISCONFIGURED:
        return MisconfiguredError(text)
    if read_excess(text) is not None or is_excess_of_unknown_size(text):
        return TooLargeError(text)
    if status.code in _AGAIN or (status.code == StatusCode.RESOURCE_EXHAUSTED and status.retry_seconds is not None):
        return RetryableError(text, retry_after=status.retry_seconds)
    return RefusedPartError(text)


def http_error(where: str, status: int, message: str, retry_after: float | None) -> EmitError:
    """Return the error that a status of HTTP means to a client, as the specification of OTLP has it."""
    text = f"{where}: HTTP {status} {message}".strip()
    if status in (429, 502, 503, 504):
        return RetryableError(text, retry_after=retry_after)
    if status < 400 or status in (401, 403, 404, 405, 407, 410):
        return MisconfiguredError(text)
    return TooLargeError(text) if status == 413 else RefusedPartError(text)
