"""`polku.v1.PluginRegistry` on the gateway's port: for plugins that know the token."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from polku.errors import PipelineError
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

SERVICE = "polku.v1.PluginRegistry"


class RegistryService:
    """Answer Register, Heartbeat and Unregister."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.failures = Failures()
        self._expected = f"Bearer {registry.rules.token}".encode()

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
        await self._check_token(context)
        try:
            plugin_id = await self.registry.register(request.info, request.address)
        except (RefusedError, PipelineError) as error:
            return RegisterResponse(accepted=False, message=said(error))
        return RegisterResponse(accepted=True, plugin_id=plugin_id)

    async def _heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        await self._check_token(context)
        try:
            return HeartbeatResponse(acknowledged=await self.registry.heartbeat(request.plugin_id))
        except PipelineError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise

    async def _unregister(self, request: UnregisterRequest, context: Any) -> Empty:
        await self._check_token(context)
        await self.registry.unregister(request.plugin_id)
        return Empty()

    async def _check_token(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization", "")
        text = given if isinstance(given, bytes) else given.encode()
        if not hmac.compare_digest(text, self._expected):
            reason = "send the gateway's plugin token as metadata: authorization: Bearer TOKEN"
            if pause := self.failures.add(context.peer().rpartition(":")[0], f"plugin registration: {reason}"):
                await asyncio.sleep(pause)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)
