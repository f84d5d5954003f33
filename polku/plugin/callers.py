"""Who may call a plugin: those that show its token."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from polku.security.secret import Secret, reveal

_OPEN = "/grpc.health.v1.Health/"
_REASON = "this plugin wants its token as metadata: authorization: Bearer TOKEN"


class CallerCheck(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # it is generic in its stub alone
    """Refuse calls without the plugin's token, apart from those of the standard health service.

    Where no `token` is given it is a new one, which only a gateway knows that the plugin registers with. Then all calls
    are taken until one has shown it: other gateways than POLKU's may not know how to.
    """

    def __init__(self, token: str | Secret | None = None) -> None:
        self._token: str | Secret = token or secrets.token_urlsafe(32)
        self._is_required = token is not None

    @property
    def token(self) -> str:
        """What calls have to show; raises `MisconfiguredError` where it cannot be read."""
        return reveal(self._token)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Put the check in front of all methods."""
        if details.method.startswith(_OPEN):
            return await continuation(details)
        given = dict(details.invocation_metadata or ()).get("authorization", "")
        text = given if isinstance(given, bytes) else given.encode()
        if hmac.compare_digest(text, f"Bearer {self.token}".encode()):
            self._is_required = True
        elif self._is_required:
            return _refusal(await continuation(details))
        return await continuation(details)


def _refusal(handler: Any) -> Any:
    """Return what refuses a call of a method, of the kind that it has."""

    async def refuse(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, _REASON)

    if handler is not None and handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
