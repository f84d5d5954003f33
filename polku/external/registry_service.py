"""`polku.v1.PluginRegistry` on the gateway's port: for plugins that know the token."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.empty_pb2 import Empty

from polku.errors import InputError, PipelineError
from polku.external.callback import host_of
from polku.external.caller import CALL_TOKEN, Caller
from polku.external.registry import RefusedError, Registry
from polku.security.failures import Failures
from polku.text import said
from polku.v1.plugin_pb2 import (
    HeartbeatRequest,
    HeartbeatResponse,
    RegisterRequest,
    RegisterResponse,
    UnregisterRequest,
)

if TYPE_CHECKING:
    from polku.security.authenticator import Authenticator

SERVICE = "polku.v1.PluginRegistry"


class RegistryService:
    """Answer Register, Heartbeat and Unregister."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.failures = Failures()
        self.authenticator: Authenticator | None = None
        self._expected = f"Bearer {registry.rules.token}".encode() if registry.rules.token else None

    def handlers(self) -> Any:
        """Return gRPC's handler of the service."""
        methods = {name: grpc.unary_unary_rpc_method_handler(*parts) for name, parts in self.methods().items()}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def methods(self) -> dict[str, Any]:
        """Return the methods by name: handler, parser of requests, serialiser of answers."""
        return {
            "Register": (self._register, RegisterRequest.FromString, RegisterResponse.SerializeToString),
            "Heartbeat": (self._heartbeat, HeartbeatRequest.FromString, HeartbeatResponse.SerializeToString),
            "Unregister": (self._unregister, UnregisterRequest.FromString, Empty.SerializeToString),
        }

    async def _register(self, request: RegisterRequest, context: Any) -> RegisterResponse:
        caller = await self._caller(context)
        try:
            plugin_id = await self.registry.register(request.info, request.address, caller)
        except (RefusedError, PipelineError) as error:
            return RegisterResponse(accepted=False, message=said(error))
        return RegisterResponse(accepted=True, plugin_id=plugin_id)

    async def _heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        caller = await self._caller(context)
        try:
            return HeartbeatResponse(acknowledged=await self.registry.heartbeat(request.plugin_id, caller))
        except PipelineError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise

    async def _unregister(self, request: UnregisterRequest, context: Any) -> Empty:
        await self.registry.unregister(request.plugin_id, await self._caller(context))
        return Empty()

    async def _caller(self, context: Any) -> Caller:
        """Return who calls, by the token of all plugins, or by that of a principal; aborts for others."""
        metadata = {key: _text(value) for key, value in context.invocation_metadata() or ()}
        given = metadata.get("authorization", "")
        caller = Caller(host_of(context.peer()), token=metadata.get(CALL_TOKEN) or None)
        if self._expected is not None and hmac.compare_digest(given.encode(), self._expected):
            return caller
        reason = "send the gateway's plugin token as metadata: authorization: Bearer TOKEN"
        if self.authenticator is not None and given:
            try:
                return caller._replace(account=self.authenticator.identify(given).account)
            except InputError as error:
                reason = error.message
        if pause := self.failures.add(context.peer().rpartition(":")[0], f"plugin registration: {reason}"):
            await asyncio.sleep(pause)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)
        raise AssertionError("unreachable: abort raises")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
