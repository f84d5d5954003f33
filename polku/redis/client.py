"""The Redis client: where it comes from, how it is opened, and what its errors mean."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from polku.errors import MisconfiguredError, PlanError
from polku.log import RepeatedLog
from polku.security.client_tls import ClientTls, check_client_tls
from polku.security.secret import Secret, reveal

LOG = RepeatedLog(logging.getLogger("polku.redis"))
_SCHEMES = ("redis", "rediss", "unix")


class Kind(Enum):
    """Say what an error of Redis' asks for."""

    RETRY = "retry"
    """The same command may work later: no connection, a full memory, a replica that is not the master yet."""
    ACCESS = "access"
    """Nothing works until credentials, rights or the address are fixed."""
    STREAM = "stream"
    """The key has something else than a stream."""


def load(where: str) -> Any:
    """Import the client; raises `PlanError` with the command that installs it."""
    try:
        import redis.asyncio
    except ImportError as error:
        raise PlanError(f"needs redis ({error}): pip install 'polku[redis]'", where=where) from None
    return redis


def kind_of(error: BaseException) -> Kind:
    """Sort an error; what is not known is worth another try."""
    from redis import exceptions

    access = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
    if isinstance(error, (*access, exceptions.MovedError, exceptions.AskError)):
        return Kind.ACCESS
    text = str(error)
    if text.startswith("WRONGTYPE"):
        return Kind.STREAM
    return Kind.ACCESS if "NOAUTH" in text or "unknown command" in text else Kind.RETRY


def explain(error: BaseException) -> str:
    """Return an error of the client as a sentence."""
    from redis import exceptions

    if isinstance(error, (exceptions.MovedError, exceptions.AskError)):
        return "the server is part of a Redis Cluster, whose slots are not followed; name one server"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"


def check_server(where: str, config: Any) -> None:
    """Make sure of what names a server, and keep its roots as absolute path; raises `PlanError` without a password."""
    url, password = config.url, config.password
    if not isinstance(url, Secret):
        _check_url(where, url)
    if password is not None and not isinstance(password, (str, Secret)):
        raise PlanError("password must be a text or a polku.Secret", where=where)
    roots = check_client_tls(where, config.root_certificates, config.certificate)
    object.__setattr__(config, "root_certificates", roots)
    if isinstance(url, str) and urlsplit(url).scheme != "rediss":
        for option in ("root_certificates", "certificate"):
            if getattr(config, option) is not None:
                raise PlanError(f"{option} is for TLS: write rediss:// for the url", where=where)


def tls_of(config: Any) -> ClientTls:
    """Return what connections begin with that are encrypted."""
    return ClientTls(config.root_certificates, config.certificate)


def open_client(where: str, config: Any, tls: ClientTls, *, timeout: float) -> Any:
    """Make a client, which connects when it is used; a command without an answer for `timeout` seconds fails.

    Nothing is repeated by the client itself: it does not know what may come twice. Raises `MisconfiguredError`.
    """
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    url = reveal(config.url)
    try:
        _check_url(where, url)
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "protocol": 2}
        options |= {"socket_timeout": timeout, "socket_connect_timeout": timeout, "socket_keepalive": True}
        if config.password is not None:
            options["password"] = reveal(config.password)
        if url.startswith("unix:"):
            del options["socket_keepalive"]
        client: Any = Redis.from_url(url, **options)
        if url.startswith("rediss:"):
            client.connection_pool.connection_class = _encrypted(tls)
        return client
    except (PlanError, ValueError) as error:
        raise MisconfiguredError(f"url: {error}") from None


def _encrypted(tls: ClientTls) -> type:
    """Return the class of connections that begin with the certificates as their files are then."""
    from redis.asyncio.connection import SSLConnection

    class Encrypted(SSLConnection):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.ssl_context = _Contexts(tls)  # type: ignore[assignment]  # the client asks nothing else of it

    return Encrypted


class _Contexts:
    def __init__(self, tls: ClientTls) -> None:
        self.get = tls.context


def server_of(url: str | Secret) -> str:
    """Return what a server is called in messages: its address, and no password."""
    if isinstance(url, Secret):
        return repr(url)
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def _check_url(where: str, url: object) -> None:
    fix = "write redis://host:6379/0, rediss://host or unix:///path"
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is not None and parts.scheme in _SCHEMES and parts.port != 0 and (parts.hostname or parts.path):
            return
    except ValueError:  # the port is no number
        pass
    raise PlanError(f"url is no address of a Redis server; {fix}", where=where)
