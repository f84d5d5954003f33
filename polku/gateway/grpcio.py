"""The gRPC door: `polku.v1.Gateway`, the standard health service and reflection, on one port.

Messages come in as bytes and are read by the intake, so that a malformed one is answered and does not end its
stream. A stream is read ahead by a bounded number of batches and acknowledged in order; a client that does not read
its acknowledgements is not read from either.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from polku.aio.sequencer import Sequencer
from polku.aio.slices import in_slices
from polku.batch.receipt import Counts
from polku.errors import DrainingError, InputError
from polku.gateway.ack_size import bounding
from polku.gateway.acks import to_stats
from polku.gateway.addresses import cannot_open
from polku.gateway.grpc_status import Baselines, check_answer, status_of
from polku.gateway.grpcio_gate import GrpcioGate
from polku.gateway.intake import Intake
from polku.gateway.otlp.grpcio import handlers
from polku.gateway.retry_hints import retry_metadata
from polku.health import Health, health_response
from polku.limits import Limits
from polku.rpc.status import Status, StatusCode
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack, HealthRequest, HealthResponse

if TYPE_CHECKING:
    from polku.external.registry_service import RegistryService
    from polku.gateway.certificates import Certificates
    from polku.security.authenticator import Authenticator

_LOG = logging.getLogger(__name__)
_SERVICE = "polku.v1.Gateway"
_CALLS = 512  # that one connection may have open: gRPC takes 1 MB for a list of headers that is refused later


class GatewayServer:
    """Serve one intake over gRPC."""

    protocol = "grpc"

    def __init__(
        self,
        intake: Intake,
        health: Callable[[], Awaitable[Health]],
        registry: RegistryService | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._intake = intake
        self._registry = registry
        if registry is not None:
            registry.authenticator = authenticator
        self._health = health
        self._server: grpc.aio.Server | None = None
        self._health_service: Any = None
        self._started = time.monotonic()
        self._baselines = Baselines(intake)
        self._told_parts: set[str] = set()
        self._gate = None if authenticator is None else GrpcioGate(authenticator)
        self._streams = 0

    @property
    def connections(self) -> int | None:
        """How many connections are open; None where that is not known."""
        return None

    async def start(
        self,
        address: str,
        field: str = "grpc_addr",
        *,
        shared: bool = False,
        certificates: Certificates | None = None,
    ) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` about `field` where it cannot be had.

        A `shared` port may be open in other processes too: the kernel divides the connections among them. With
        `certificates` it speaks TLS alone.
        """
        interceptors = [] if self._gate is None else [self._gate]
        server = grpc.aio.server(interceptors=interceptors, options=_options(self._intake.limits, shared=shared))
        server.add_generic_rpc_handlers((self._handlers(), *handlers(self._intake, self._gate)))
        if self._registry is not None:
            server.add_generic_rpc_handlers((self._registry.handlers(),))
        self._add_standard_services(server)
        _LOG.warning("%s", _say_limits(self._intake.limits))
        port = _bind(server, field, address, _credentials(certificates) if certificates else None)
        await server.start()
        if self._registry is not None:
            await self._registry.registry.start()
        self._server = server
        await self.set_serving(True)
        host = address.rpartition(":")[0]
        return address if address.startswith("unix:") else f"{host}:{port}"

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give open ones `grace` seconds to end, close the port."""
        if self._server is not None:
            await self.set_serving(False)
            server, self._server = self._server, None
            await server.stop(grace)
            if self._registry is not None:
                await self._registry.registry.close()

    async def set_serving(self, serving: bool, parts: Mapping[str, bool] | None = None) -> None:
        """Say to `grpc.health.v1` clients whether the gateway serves, and which parts are well."""
        from grpc_health.v1.health_pb2 import HealthCheckResponse

        if self._health_service is None:
            return
        well = {"": serving, _SERVICE: serving, **(parts or {})}
        for service, is_well in well.items():
            await self._health_service.set(
                service, HealthCheckResponse.SERVING if is_well else HealthCheckResponse.NOT_SERVING
            )
        if parts is not None:
            for service in self._told_parts - parts.keys():
                await self._health_service.set(service, HealthCheckResponse.SERVICE_UNKNOWN)
            self._told_parts = set(parts)

    async def send_event(self, message: bytes, context: Any) -> Ack:
        """Answer SendEvent."""
        self._baseline(context)  # a stream counts since its connection first called
        account = None if self._gate is None else self._gate.identity(context).account
        try:
            ack = await self._intake.event(message, account)
            check_answer(ack)
        except (DrainingError, InputError) as error:
            status = status_of(error)
            code = grpc.StatusCode[StatusCode(status.code).name]
            await context.abort(code, status.message, trailing_metadata=_retry_metadata(status))
        return await in_slices(bounding(ack))

    async def stream_events(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answer StreamEvents: one Ack for each batch, in order."""
        if self._streams >= self._intake.limits.streams:
            limit = self._intake.limits.streams
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{limit} streams are open; close some")
        account = None if self._gate is None else self._gate.identity(context).account
        if account is not None and (reason := account.enter_stream()):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        self._streams += 1
        baseline = self._baseline(context)
        acks: asyncio.Queue[asyncio.Future[Ack] | None] = asyncio.Queue(self._intake.limits.stream_batches)
        reader = asyncio.ensure_future(self._read(requests, acks, context))
        try:
            while (answer := await acks.get()) is not None:
                ack = await in_slices(bounding(await answer))
                ack.middleware_stats.CopyFrom(to_stats(self._intake.counts.minus(baseline)))
                await context.write(ack)
            await reader
        except InputError as error:  # the client's token has ended
            status = status_of(error)
            await context.abort(grpc.StatusCode[StatusCode(status.code).name], status.message)
        finally:
            self._streams -= 1
            if account is not None:
                account.leave_stream()
            reader.cancel()

    async def health(self, request: HealthRequest, context: Any) -> HealthResponse:
        """Answer Health with the state of every part of the pipeline."""
        health = await self._health()
        shown = health.public() if self._gate is None else health  # with one only those that it knows get here
        return health_response(shown, time.monotonic() - self._started)

    async def _read(
        self, requests: AsyncIterator[bytes], acks: asyncio.Queue[asyncio.Future[Ack] | None], context: Any
    ) -> None:
        turns = Sequencer()
        account = None
        try:
            async for message in requests:
                if self._gate is not None:
                    account = self._gate.identity(context).account
                await acks.put(asyncio.ensure_future(await self._intake.begin(message, turns, account)))
        except BaseException as error:
            if not is_ours(error):
                await acks.put(None)
            raise
        await acks.put(None)

    def _baseline(self, context: Any) -> Counts:
        return self._baselines.of(context.peer())

    def _handlers(self) -> Any:
        methods = {
            "SendEvent": grpc.unary_unary_rpc_method_handler(
                self.send_event, response_serializer=Ack.SerializeToString
            ),
            "StreamEvents": grpc.stream_stream_rpc_method_handler(
                self.stream_events, response_serializer=Ack.SerializeToString
            ),
            "Health": grpc.unary_unary_rpc_method_handler(
                self.health, HealthRequest.FromString, HealthResponse.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    def _add_standard_services(self, server: grpc.aio.Server) -> None:
        from grpc_health.v1 import health, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection

        self._health_service = health.aio.HealthServicer()  # type: ignore[attr-defined] # its stub lags behind
        health_pb2_grpc.add_HealthServicer_to_server(self._health_service, server)
        services = [_SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        if self._registry is not None:
            services.append("polku.v1.PluginRegistry")
        reflection.enable_server_reflection(services, server)


def _retry_metadata(status: Status) -> tuple[tuple[str, str | bytes], ...]:
    seconds = status.retry_seconds
    return () if seconds is None else tuple(retry_metadata(status.code, status.message, seconds))


def _say_limits(limits: Limits) -> str:
    """Return which limits this server does not hold, for the log: docs/http-and-grpc.md has the table."""
    calls = min(limits.connection_calls, _CALLS)
    missing = "grpc_connections, address_connections, unfinished messages, answers that nobody reads, and times"
    return f"grpcio's server holds no limits on {missing}; a connection may have {calls} calls open, not more"


def _options(limits: Limits, *, shared: bool) -> list[tuple[str, int]]:
    calls = min(limits.connection_calls, _CALLS)
    age = limits.connection_age_seconds
    lifetime = [("grpc.max_connection_age_ms", age * 1_000), ("grpc.max_connection_age_grace_ms", 30_000)]
    return [
        *(lifetime if age else []),
        ("grpc.so_reuseport", int(shared)),
        # What is over our limit but under this cap is refused by name; over the cap gRPC ends the call.
        ("grpc.max_receive_message_length", 4 * limits.message_bytes + 65536),
        ("grpc.max_send_message_length", -1),
        # What is over this waits at the client. Without it gRPC itself takes in any number, of some 10 kB each, and
        # cancels at random those that the process does not get round to.
        ("grpc.max_concurrent_streams", calls),
        ("grpc.server.max_pending_requests", 2 * calls),
        ("grpc.server.max_pending_requests_hard_limit", 4 * calls),
    ]


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that each handshake asks for what the files hold by now."""
    in_use: list[object] = [certificates.pems]

    def configuration() -> grpc.ServerCertificateConfiguration:
        pems = certificates.pems
        return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.client_ca)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        if in_use[0] is certificates.pems:
            return None
        in_use[0] = certificates.pems
        return configuration()

    asks = certificates.tls.client_ca is not None
    fetch: Any = changed  # None says that nothing has changed, which the stubs do not know
    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client_authentication=asks)


def _bind(server: grpc.aio.Server, field: str, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise cannot_open(field, address, error) from None
    if port == 0:
        raise cannot_open(field, address, "no port")
    return port
