"""`Export` of the three services of OTLP, on grpcio's server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from polku.errors import DrainingError, InputError
from polku.gateway.grpc_status import status_of
from polku.gateway.intake import Intake
from polku.gateway.otlp.answers import accepted_bytes
from polku.gateway.otlp.service import OtlpService
from polku.gateway.retry_hints import retry_metadata
from polku.otlp.signals import SIGNALS, Signal
from polku.rpc.status import StatusCode

if TYPE_CHECKING:
    from polku.gateway.grpcio_gate import GrpcioGate


def handlers(intake: Intake, gate: GrpcioGate | None) -> tuple[Any, ...]:
    """Return a handler for each service."""
    service = OtlpService(intake)
    return tuple(
        grpc.method_handlers_generic_handler(
            signal.service, {"Export": grpc.unary_unary_rpc_method_handler(partial(_export, service, gate, signal))}
        )
        for signal in SIGNALS
    )


async def _export(service: OtlpService, gate: GrpcioGate | None, signal: Signal, message: bytes, context: Any) -> bytes:
    account = None if gate is None else gate.identity(context).account
    try:
        if account is not None:
            account.check_rate()
            account.count(0, len(message))
        return accepted_bytes(await service.export(signal, message, account))
    except (DrainingError, InputError) as error:
        status = status_of(error)
        seconds = status.retry_seconds
        metadata = () if seconds is None else tuple(retry_metadata(status.code, status.message, seconds))
        await context.abort(grpc.StatusCode[StatusCode(status.code).name], status.message, trailing_metadata=metadata)
        raise AssertionError("unreachable") from error
