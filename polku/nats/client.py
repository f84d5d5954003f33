"""The NATS client: where it comes from, one connection of it, and what its errors mean."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from polku import checks
from polku.errors import MisconfiguredError, PlanError, RetryableError
from polku.log import RepeatedLog
from polku.security.client_tls import ClientTls, check_client_tls
from polku.security.secret import Secret, reveal

LOG = RepeatedLog(logging.getLogger("polku.nats"))
_SCHEMES = ("nats", "tls", "ws", "wss")
_CLOSE_SECONDS = 2.0


class Kind(Enum):
    """Say what an error of NATS' asks for."""

    RETRY = "retry"
    """The same message may be taken later."""
    ACCESS = "access"
    """Nothing works until credentials, rights, the address or the stream are fixed."""
    SUBJECT = "subject"
    """No stream takes messages of this subject."""
    RECORD = "record"
    """This message will never be taken."""


_RECORD_CODES = (10054, 10061)  # larger than the stream allows; a header says what cannot be
_ACCESS_CODES = (10035, 10039, 10060, 10076)  # no JetStream, not for this account, another stream than expected


class RefusedError(Exception):
    """Say that the server answered a message with an error."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} (code {code})")
        self.err_code = code
        self.description = description


def load(where: str) -> Any:
    """Import the client; raises `PlanError` with the command that installs it."""
    try:
        import nats.aio.client
    except ImportError as error:
        raise PlanError(f"needs nats-py ({error}): pip install 'polku[nats]'", where=where) from None
    return nats


def kind_of(error: object) -> Kind:
    """Sort an error, or the class of one; what is not known is worth another try."""
    from nats import errors
    from nats.js import errors as stream_errors

    kind = error if isinstance(error, type) else type(error)
    if issubclass(kind, stream_errors.NoStreamResponseError):
        return Kind.SUBJECT
    if issubclass(kind, (errors.MaxPayloadError, errors.BadSubjectError)):
        return Kind.RECORD
    if issubclass(kind, (errors.AuthorizationError, errors.InvalidUserCredentialsError)):
        return Kind.ACCESS
    if "authorization violation" in str(error).lower():
        return Kind.ACCESS
    code = getattr(error, "err_code", None)
    return Kind.RECORD if code in _RECORD_CODES else Kind.ACCESS if code in _ACCESS_CODES else Kind.RETRY


def explain(error: object) -> str:
    """Return an error of the client as a sentence."""
    if isinstance(error, type):
        error = error()
    description = getattr(error, "description", None)
    if description:
        return f"{description} (code {getattr(error, 'err_code', None)})"
    return f"{type(error).__name__}: {str(error).removeprefix('nats: ')}"


def check_server(where: str, config: Any) -> None:
    """Make sure of what names servers and says who this is; raises `PlanError` without a password in it."""
    servers = (config.servers,) if isinstance(config.servers, (str, Secret)) else tuple(config.servers)
    for server in servers or ("",):
        if not isinstance(server, Secret):
            _check_url(where, server)
    for option in ("user", "password", "token"):
        if getattr(config, option) is not None and not isinstance(getattr(config, option), (str, Secret)):
            raise PlanError(f"{option} must be a text or a polku.Secret", where=where)
    if config.credentials is not None and not isinstance(config.credentials, (str, os.PathLike)):
        raise checks.fault(where, "credentials", config.credentials, "must be the path of a file")
    roots = check_client_tls(where, config.root_certificates, config.certificate)
    object.__setattr__(config, "root_certificates", roots)


def tls_of(config: Any) -> ClientTls | None:
    """Return what connections begin with that are encrypted; None for what the client does by itself."""
    if config.root_certificates is None and config.certificate is None:
        return None
    return ClientTls(config.root_certificates, config.certificate)


class NatsConnection:
    """One connection, which is not made again by the client: who uses it knows what has no answer."""

    def __init__(self, client: Any, closed: asyncio.Future[None]) -> None:
        self.client = client
        self.streams = client.jetstream()
        self.closed = closed
        self._prefix = ""
        self._numbers = itertools.count()
        self._answers: dict[str, asyncio.Future[None]] = {}

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self.closed.done() and bool(self.client.is_connected)

    async def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> asyncio.Future[None]:
        """Send a message to a stream; the future is done when it is stored, or has the error. Raises the client's.

        The client's own `publish_async` (2.16) never hears of an error that the server answers with.
        """
        if not self._prefix:
            self._prefix = self.client.new_inbox()
            await self.client.subscribe(f"{self._prefix}.*", cb=self._hear)
        reply = f"{self._prefix}.{next(self._numbers)}"
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers[reply] = answer  # it may come before the client says that the message is on its way
        try:
            await self.client.publish(subject, data, reply=reply, headers=headers)
        except BaseException:
            self._answers.pop(reply, None)
            raise
        return answer

    async def _hear(self, message: Any) -> None:
        from nats.js.errors import NoStreamResponseError

        answer = self._answers.pop(message.subject, None)
        if answer is None or answer.done():
            return
        if (message.headers or {}).get("Status") == "503":
            answer.set_exception(NoStreamResponseError())
            return
        error = _refusal(message.data)
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    async def close(self) -> None:
        """Close it; what has no answer gets none."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.client.close()
        except Exception as error:  # it is gone either way
            LOG.info("close", "%s", explain(error))


def _refusal(data: bytes) -> RefusedError | None:
    """Return why an answer does not confirm: only one with a stream and a place in it does, whoever gave it."""
    try:
        content = json.loads(data)
        error = content.get("error")
        if error and isinstance(error, dict):
            code = error.get("err_code", 0)
            return RefusedError(code if isinstance(code, int) else 0, str(error.get("description", "")))
        if error:
            return RefusedError(0, str(error))
        place = content.get("seq")
        if isinstance(content.get("stream"), str) and content["stream"] and type(place) is int and place > 0:
            return None
    except (ValueError, AttributeError, RecursionError):
        pass
    return RefusedError(0, "the answer is no acknowledgement of JetStream")


async def connect(where: str, config: Any, tls: ClientTls | None) -> NatsConnection:
    """Connect; raises `RetryableError` or `MisconfiguredError`."""
    from nats.aio.client import Client

    latest: list[BaseException] = []
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def on_error(error: BaseException) -> None:
        latest.append(error)

    async def on_closed() -> None:
        if not closed.done():
            closed.set_result(None)

    client: Any = Client()
    servers = _servers(where, config)
    try:
        async with asyncio.timeout(config.timeout):
            await client.connect(
                servers,
                error_cb=on_error,
                closed_cb=on_closed,
                name="polku",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=config.timeout,
                flush_timeout=config.timeout,
                **_identity(config, tls),
            )
    except BaseException as error:
        await NatsConnection(client, closed).close()
        if not isinstance(error, Exception):
            raise
        cause = latest[-1] if latest else error
        reason = f"{server_of(config)}: {explain(cause)}"
        raise (MisconfiguredError if kind_of(cause) is Kind.ACCESS else RetryableError)(reason) from None
    return NatsConnection(client, closed)


def server_of(config: Any) -> str:
    """Return what the servers are called in messages: addresses, and no password."""
    servers = (config.servers,) if isinstance(config.servers, (str, Secret)) else config.servers
    return ", ".join(repr(one) if isinstance(one, Secret) else _address(one) for one in servers)


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 4222}"


def _servers(where: str, config: Any) -> list[str]:
    servers = (config.servers,) if isinstance(config.servers, (str, Secret)) else config.servers
    revealed = [reveal(server) for server in servers]
    try:
        for server in revealed:
            _check_url(where, server)
    except PlanError as error:
        raise MisconfiguredError(str(error)) from None
    return revealed


def _identity(config: Any, tls: ClientTls | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for option in ("user", "password", "token"):
        if getattr(config, option) is not None:
            options[option] = reveal(getattr(config, option))
    if config.credentials is not None:
        options["user_credentials"] = os.fspath(config.credentials)
    if tls is not None:
        try:
            options["tls"] = tls.context()
        except ConnectionError as error:
            raise MisconfiguredError(str(error)) from None
    return options


def _check_url(where: str, url: object) -> None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is not None and parts.scheme in _SCHEMES and parts.hostname and parts.port != 0:
            return
    except ValueError:  # the port is no number
        pass
    raise PlanError("servers: write nats://host:4222 or tls://host:4222, or several in a list", where=where)
