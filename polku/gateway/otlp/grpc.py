"""`Export` of the three services of OTLP over gRPC, on our own server."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from typing import TYPE_CHECKING

from polku.aio.eager import start_eagerly
from polku.errors import DrainingError, InputError
from polku.gateway.grpc.calls import BatchMethod, Method
from polku.gateway.grpc.protocol import GrpcConnection
from polku.gateway.grpc_status import status_of
from polku.gateway.intake import Intake
from polku.otlp.signals import SIGNALS, Signal
from polku.security.account import Account

if TYPE_CHECKING:
    from polku.gateway.otlp.service import OtlpService


class OtlpMethods:
    """Answer the calls that have come at once, each by itself."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._open: set[asyncio.Future[None]] = set()

    def methods(self) -> dict[bytes, Method]:
        """Return the methods by path."""
        return {signal.method.encode(): BatchMethod(partial(self._calls, signal)) for signal in SIGNALS}

    @cached_property
    def _service(self) -> OtlpService:
        from polku.gateway.otlp.service import OtlpService  # by the first call: a gateway is ready sooner

        return OtlpService(self._intake)

    def _calls(self, signal: Signal, connection: GrpcConnection, calls: list[tuple[int, bytes]]) -> None:
        account = connection.account
        for number, message in calls:
            work = start_eagerly(self._answer(signal, connection, number, message, account))
            if not work.done():
                self._open.add(work)
                work.add_done_callback(self._open.discard)

    async def _answer(
        self, signal: Signal, connection: GrpcConnection, number: int, message: bytes, account: Account | None
    ) -> None:
        from polku.gateway.otlp.answers import accepted_bytes

        try:
            if account is not None:
                account.check_rate()
                account.count(0, len(message))
            answer = await self._service.export(signal, message, account)
        except (DrainingError, InputError) as error:
            connection.refuse(number, status_of(error))
        else:
            connection.respond(number, accepted_bytes(answer))
