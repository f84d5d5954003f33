"""Who calls grpcio's server: an interceptor in front of all methods but those that are open to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from polku.errors import InputError
from polku.gateway.grpc_status import status_of
from polku.rpc.status import StatusCode
from polku.security.certificate_names import names_of_context

if TYPE_CHECKING:
    from polku.security.authenticator import Authenticated, Authenticator

_OPEN = ("/grpc.health.v1.Health/", "/polku.v1.PluginRegistry/")  # plugins have a token of their own


class GrpcioGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # it is generic in its stub alone
    """Refuse calls of clients that are not known; limits of connections cannot be held here."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def identity(self, context: Any) -> Authenticated:
        """Return who calls; raises `InputError`."""
        metadata = dict(context.invocation_metadata() or ())
        given = metadata.get("authorization", "")
        text = given.decode("latin-1") if isinstance(given, bytes) else given
        return self._authenticator.identify(text, names_of_context(context.auth_context()))

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Put the question who calls in front of a method."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        parts = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary), *parts)
        if details.method.endswith("/StreamEvents"):
            return grpc.stream_stream_rpc_method_handler(self._unary(handler.stream_stream), *parts)
        return grpc.stream_stream_rpc_method_handler(self._stream(handler.stream_stream), *parts)

    def _unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def checked(request: Any, context: Any) -> Any:
            await self._check(context)
            return await behaviour(request, context)

        return checked

    def _stream(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def checked(requests: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(context)
            async for answer in behaviour(requests, context):
                yield answer

        return checked

    async def _check(self, context: Any) -> None:
        try:
            self.identity(context)
        except InputError as error:
            peer = str(context.peer()).rpartition(":")[0]
            if pause := self._authenticator.failures.add(peer, error.message):
                await asyncio.sleep(pause)
            status = status_of(error)
            await context.abort(grpc.StatusCode[StatusCode(status.code).name], status.message)
