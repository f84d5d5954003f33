"""The certificates of the gateway's ports, as they are in their files now.

       read at the start          changed, and good: new handshakes get them
    ───────────────────▶ good ◀──────────────────────────────────────────────┐
                          │ changed, and not good                            │
                          ▼                                                  │
                    the last good ones stay ─────────────────────────────────┘

Connections that are open keep what they have negotiated. Each reload makes new contexts, with ticket keys of their own,
so that no session is resumed that an older client CA has let in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from polku.errors import SettingError
from polku.gateway.expiry import valid_until
from polku.gateway.tls import Tls
from polku.security.file_identity import file_identity

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_WARN_BEFORE, _WARN_EVERY = timedelta(days=14), timedelta(days=1)
# Of TLS 1.2; RFC 9113, appendix A, forbids most of the others. TLS 1.3 has its own.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
H2, HTTP1 = "h2", "http/1.1"
_PROTOCOLS = (H2, HTTP1)


class Pems(Struct, frozen=True):
    """The bytes of the files that are in use: private key, certificate chain, and the clients' CA."""

    key: bytes
    chain: bytes
    client_ca: bytes | None


class Certificates:
    """Read the files of one `Tls`, and read them again when they change.

    Raises `SettingError` naming the file and the fix where they cannot be used at the start.
    """

    def __init__(self, tls: Tls) -> None:
        self.tls = tls
        self.fault = ""
        self._identity = self._rejected = _identity(tls)
        self._contexts, self._pems = _load(tls)
        self._warned: datetime | None = None

    def context(self, protocol: str) -> ssl.SSLContext:
        """Return what a new connection with the ALPN `protocol` (`h2` or `http/1.1`) begins with."""
        return self._contexts[protocol]

    @property
    def pems(self) -> Pems:
        """The bytes that the contexts were made of."""
        return self._pems

    @property
    def expires(self) -> datetime | None:
        """When the server's certificate ends to be valid; None where its file does not tell."""
        try:
            return valid_until(self._pems.chain.decode("ascii", "replace"))
        except ValueError:
            return None

    def expiry(self, now: datetime) -> str:
        """Return what is to be said of the end of the certificate; empty while it is more than 14 days away."""
        end = self.expires
        if end is None or end - now > _WARN_BEFORE:
            return ""
        when = f"expired on {end:%Y-%m-%d}: clients refuse it" if end <= now else f"expires on {end:%Y-%m-%d %H:%M} UTC"
        return f"tls_cert={os.fspath(self.tls.cert)!r}: {when}; renew it, it is read again by itself"

    async def watch(self) -> None:
        """Look for changed files, until cancelled. The files may be on a slow disk: a thread reads them."""
        loop = asyncio.get_running_loop()
        while True:
            self._warn(datetime.now(UTC))
            await asyncio.sleep(_LOOK_SECONDS)
            await loop.run_in_executor(None, self.look)

    def look(self) -> None:
        """Read the files where they have changed since the last look; bad ones are told of once they stay as they are.

        A certificate and its key that are replaced one after the other do not match in between.
        """
        identity = _identity(self.tls)
        if identity == self._identity:
            return
        try:
            contexts, pems = _load(self.tls)
        except SettingError as error:
            if identity == self._rejected:
                self._identity = identity
                self.fault = f"the last good certificate stays in use: {error}"
                _LOG.error("TLS: %s", self.fault)
            self._rejected = identity
            return
        self._contexts, self._pems, self.fault = contexts, pems, ""
        self._identity = self._rejected = identity
        self._warned = None
        _LOG.info("TLS: %s was read again; new connections get it", self.tls.cert)

    def _warn(self, now: datetime) -> None:
        """Write of the end of the certificate to the log, once a day."""
        if self._warned is not None and now - self._warned < _WARN_EVERY:
            return
        self._warned = now
        if text := self.expiry(now):
            _LOG.warning("TLS: %s", text)


def _identity(tls: Tls) -> tuple[object, ...]:
    return tuple(map(file_identity, tls.paths.values()))


def _load(tls: Tls) -> tuple[dict[str, ssl.SSLContext], Pems]:
    contents = {name: _read(name, path) for name, path in tls.paths.items()}
    contexts = {protocol: _context(tls, protocol) for protocol in _PROTOCOLS}
    return contexts, Pems(contents["tls_key"], contents["tls_cert"], contents.get("tls_client_ca"))


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise SettingError(
            name, path, f"cannot be read ({error.strerror}); name a PEM file that this user may read"
        ) from None
    kind = "PRIVATE KEY" if name == "tls_key" else "CERTIFICATE"
    if f"{kind}-----".encode() not in content:
        raise SettingError(name, path, f"has no PEM block `BEGIN {kind}`; name a file that has one")
    return content


def _context(tls: Tls, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([protocol])
    paths = tls.paths
    _load_pair(context, paths["tls_cert"], paths["tls_key"])
    if tls.client_ca is not None:
        _load_client_ca(context, paths["tls_client_ca"])
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "required" else ssl.CERT_OPTIONAL
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except _EncryptedError:
        fix = "write it without one (`openssl pkey -in KEY -out PLAIN`), readable by this user alone"
        raise SettingError("tls_key", key, f"is protected by a passphrase; {fix}") from None
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if reason == "KEY_VALUES_MISMATCH" or reason == "KEY_TYPE_MISMATCH":
            raise SettingError(
                "tls_key", key, f"is not the key of {cert}; name the key that it was made with"
            ) from None
        raise SettingError("tls_cert", cert, f"cannot be used with {key} ({reason}); write both as PEM") from None


def _load_client_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise SettingError(
            "tls_client_ca", path, f"cannot be used ({reason}); write the CA's certificate as PEM"
        ) from None


class _EncryptedError(Exception):
    pass


def _no_passphrase() -> str:
    """Instead of asking for it at the terminal."""
    raise _EncryptedError
