"""Carry one request of OTLP to a server, and its answer back: over gRPC, and over HTTP."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from polku.clock import Clock
from polku.emit.grpc.addresses import parse_address
from polku.emit.http import open_session, pause_of, reach
from polku.emit.parts import LateError
from polku.errors import MisconfiguredError, RetryableError
from polku.otlp.answers import PartialSuccess, grpc_error, http_error, read_partial
from polku.otlp.emitter import OtlpCompression, OtlpEmitter, OtlpProtocol
from polku.otlp.signals import Signal
from polku.rpc.channel import Channel, Target
from polku.rpc.status import Status, StatusCode
from polku.security.client_tls import ClientTls
from polku.security.secret import reveal

if TYPE_CHECKING:
    import aiohttp

_CONNECT_SECONDS = 10.0
_ANSWER_BYTES = 64 * 1024
_GZIP = 31  # zlib's way to say so
_LEVEL = 1  # the quickest: the event loop waits for it
_LEAST_PACKED = 800  # bytes: less is not worth it


class Transport(Protocol):
    """One server."""

    async def send(self, signal: Signal, body: bytes) -> PartialSuccess:
        """Send a request; raises `EmitError` where it was not taken."""
        ...

    async def close(self) -> None:
        """Close the connection; what has no answer fails."""
        ...


def transport_of(config: OtlpEmitter, clock: Clock) -> Transport:
    """Return what carries the requests of an emitter."""
    return GrpcTransport(config) if config.protocol is OtlpProtocol.GRPC else HttpTransport(config, clock)


class GrpcTransport:
    """Call `Export` over gRPC, on one connection."""

    def __init__(self, config: OtlpEmitter) -> None:
        address = parse_address("OtlpEmitter", config.endpoint)
        self._where = address.target
        self._timeout = config.timeout
        self._packs = config.compression is OtlpCompression.GZIP
        self._headers = config.headers
        tls = ClientTls(config.root_certificates, config.certificate, protocols=["h2"]) if address.tls else None
        self._channel = Channel(
            Target(address.target, None if tls is None else tls.context, min(_CONNECT_SECONDS, config.timeout))
        )

    async def send(self, signal: Signal, body: bytes) -> PartialSuccess:
        """Send a request; raises `EmitError` where it was not taken."""
        is_packed = self._packs and len(body) >= _LEAST_PACKED
        encoding = [("grpc-encoding", "gzip")] if is_packed else []
        timeout = ("grpc-timeout", f"{max(1, round(self._timeout * 1000))}m")
        answer = _Answer()
        headers = [(name, reveal(value)) for name, value in self._headers.items()]
        call = self._channel.begin(signal.method, answer, [*encoding, timeout, *headers])
        try:
            async with asyncio.timeout(self._timeout):
                await call.write([_packed(body) if is_packed else body], is_packed=is_packed)
                call.end()
                status = await answer.status
        except TimeoutError:
            raise LateError(f"{self._where}: no answer within {self._timeout:g} s") from None
        finally:
            call.cancel()
        if status.code != StatusCode.OK:
            raise grpc_error(self._where, status)
        return read_partial(signal, answer.message)

    async def close(self) -> None:
        """Close the connection; what has no answer fails."""
        await self._channel.close()


class _Answer:
    """What is heard of a call."""

    def __init__(self) -> None:
        self.message = b""
        self.status: asyncio.Future[Status] = asyncio.get_running_loop().create_future()

    def answered(self, message: bytes) -> None:
        self.message = message

    def ended(self, status: Status) -> None:
        if not self.status.done():
            self.status.set_result(status)

    def leaving(self, reason: str) -> None:
        """Wait for the answer: a call of one message has nothing to end."""


class HttpTransport:
    """Post requests."""

    def __init__(self, config: OtlpEmitter, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._tls = ClientTls(config.root_certificates, config.certificate)
        self._base = config.endpoint.rstrip("/")
        self._packs = config.compression is OtlpCompression.GZIP
        self._session: aiohttp.ClientSession | None = None

    async def send(self, signal: Signal, body: bytes) -> PartialSuccess:
        """Send a request; raises `EmitError` where it was not taken."""
        import aiohttp

        url = self._base + signal.path
        where, options = reach(urlsplit(url), self._tls)
        headers = {"User-Agent": "polku", "Content-Type": "application/x-protobuf", **options.pop("headers", {})}
        headers |= {name: reveal(value) for name, value in self._config.headers.items()}
        if self._packs and len(body) >= _LEAST_PACKED:
            headers["Content-Encoding"] = "gzip"
            body = _packed(body)
        try:
            session = self._open()
            async with session.post(url, data=body, headers=headers, allow_redirects=False, **options) as response:
                content = await response.content.read(_ANSWER_BYTES)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
            raise MisconfiguredError(f"{where}: {type(error).__name__}: {error}") from None
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            if isinstance(error, TimeoutError):
                raise LateError(f"{where}: no answer within {self._config.timeout:g} s") from None
            raise RetryableError(f"{where}: {type(error).__name__}: {error}") from None
        if 200 <= response.status < 300:
            return read_partial(signal, content)
        pause = pause_of(response.headers.get("Retry-After"), self._clock)
        message = _message(content) or response.headers.get("Location", "")
        raise http_error(where, response.status, message, pause)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(self._config.timeout)
        return self._session


def _packed(body: bytes) -> bytes:
    packing = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packing.compress(body) + packing.flush()


def _message(content: bytes) -> str:
    """Return the text of a `google.rpc.Status`, or of what is none."""
    from polku.rpc.details import status_message

    return status_message(content) or content[:200].decode(errors="replace")
