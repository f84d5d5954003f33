"""Who sends an HTTP request: by the one token of the port, or by the file of principals."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from polku.aio.peer import uid_of
from polku.codes import Code
from polku.errors import InputError
from polku.gateway.http.refusal import RequestError
from polku.health import Health
from polku.security.account import Account
from polku.security.certificate_names import names_of
from polku.security.failures import Failures

if TYPE_CHECKING:
    from polku.gateway.http.connections import HttpConnection
    from polku.security.authenticator import Authenticator

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="polku"'}
_PRINCIPAL = "http"  # who sends the token of the port
_SIGNED = "webhook:"  # and the source: who sends what the ingestor of that source knows by its signature
_WRONG = "Authorization: the bearer token is missing or wrong; send 'Authorization: Bearer TOKEN'"


class HttpGate:
    """Let in who knows the `token`, or is known to the `authenticator`; everybody where there is neither."""

    def __init__(self, token: str | None, authenticator: Authenticator | None) -> None:
        self._token = token.encode() if token else b""
        self._authenticator = authenticator
        self.failures = Failures() if authenticator is None else authenticator.failures

    @property
    def asks(self) -> bool:
        """Whether clients have to say who they are."""
        return bool(self._token) or self._authenticator is not None

    async def identify(
        self, authorization: str, transport: asyncio.BaseTransport | None, connection: HttpConnection | None
    ) -> Account | None:
        """Return whose request it is, None where all clients are alike.

        Raises `RequestError` 401, after a pause where the address has failed often, and `InputError` for a principal
        that has too many connections.
        """
        try:
            account = self._find(authorization, transport)
        except InputError as error:
            pause = self.failures.add(connection.address if connection else "", error.message)
            if pause:
                await asyncio.sleep(pause)
            raise RequestError(401, error.code, error.message, _CHALLENGE) from None
        if account is not None and connection is not None and account not in connection.accounts:
            if reason := account.enter_connection():
                raise InputError(Code.RATE_LIMITED, reason)
            connection.accounts.add(account)
        return account

    def known(self, authorization: str, connection: HttpConnection) -> Account | None:
        """Return whose request it is where that takes no more than a look; raises `InputError` for all others.

        They are refused, and counted, by `identify`, which also counts the connection of whose first request it is.
        """
        account = self._find(authorization, connection.transport)
        if account is not None and account not in connection.accounts:
            raise InputError(Code.UNAUTHENTICATED, _WRONG)
        return account

    def signed(self, source: str) -> Account | None:
        """Return whose requests those are that the ingestor of a source knows by their signatures."""
        return None if self._authenticator is None else self._authenticator.account_of(_SIGNED + source)

    def shown(self, authorization: str, transport: asyncio.BaseTransport | None, health: Health) -> Health:
        """Return what of a health the client may know: all where the authenticator knows it, else no texts and, where
        there is an authenticator, no names of parts.
        """
        if self._authenticator is None:
            return health.public()
        try:
            self._find(authorization, transport)
        except InputError:
            return health._replace(components={})
        return health

    def _find(self, header: str, transport: asyncio.BaseTransport | None) -> Account | None:
        if self._token and _is_token(header, self._token):
            return None if self._authenticator is None else self._authenticator.account_of(_PRINCIPAL)
        if self._authenticator is not None:
            if transport is None:
                return self._authenticator.identify(header).account
            names = names_of(transport.get_extra_info("peercert"))
            return self._authenticator.identify(header, names, uid_of(transport)).account
        if self._token:
            raise InputError(Code.UNAUTHENTICATED, _WRONG)
        return None


def _is_token(header: str, token: bytes) -> bool:
    scheme, _, given = header.partition(" ")
    sent = given.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(sent, token)
