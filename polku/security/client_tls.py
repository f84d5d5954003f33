"""What a client of TLS trusts and shows: PEM files, which are read again when they change, or their bytes."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from polku.checks import absolute
from polku.errors import PlanError
from polku.log import RepeatedLog
from polku.security.file_identity import file_identity

_REPEATED = RepeatedLog(logging.getLogger(__name__))

Pem: TypeAlias = "bytes | str | os.PathLike[str]"
"""The path of a PEM file, or its bytes."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with those between it and the root, and its private key without a passphrase.

    Each is the path of a PEM file, which is read again when it changes, or its bytes. Raises `PlanError`.
    """

    chain: Pem
    key: Pem = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("chain", "key"):
            object.__setattr__(self, name, checked_pem("Certificate", name, getattr(self, name)))

    def read(self) -> tuple[bytes, bytes]:
        """Return the bytes of the chain and of the key; raises `ConnectionError` that names the file."""
        return _read("certificate", self.chain), _read("certificate", self.key)


class Pems(NamedTuple):
    """The bytes of what a client trusts and shows; None: what its library trusts, and nothing."""

    roots: bytes | None = None
    chain: bytes | None = None
    key: bytes | None = None


class ClientTls:
    """Make the contexts of connections to one server, with the ALPN `protocols`.

    Where files have changed and cannot be used, the last good ones stay in use, and the log says so.
    """

    def __init__(
        self, root_certificates: Pem | None, certificate: Certificate | None = None, *, protocols: Sequence[str] = ()
    ) -> None:
        self._roots = root_certificates
        self._certificate = certificate
        self._protocols = list(protocols)
        self._seen: object = None
        self._pems: Pems | None = None
        self._context: ssl.SSLContext | None = None

    def pems(self) -> Pems:
        """Return the bytes of the files as they are now; raises `ConnectionError` that names what cannot be used."""
        self._look()
        assert self._pems is not None
        return self._pems

    def context(self) -> ssl.SSLContext:
        """Return what a connection begins with that is opened now; raises like `pems`."""
        self._look()
        assert self._context is not None
        return self._context

    def _look(self) -> None:
        seen = [file_identity(path) for path in self._paths()]
        if self._context is not None and seen == self._seen:
            return
        try:
            pems = self._read()
            context = _context(pems, self._protocols)
        except ConnectionError as error:
            if self._context is None:
                raise
            _REPEATED.error((id(self), "tls"), "TLS: the last good files stay in use: %s", error)
            return
        self._seen, self._pems, self._context = seen, pems, context

    def _paths(self) -> list[str]:
        own = () if self._certificate is None else (self._certificate.chain, self._certificate.key)
        return [os.fspath(pem) for pem in (self._roots, *own) if pem is not None and not isinstance(pem, bytes)]

    def _read(self) -> Pems:
        roots = None if self._roots is None else _read("root_certificates", self._roots)
        return Pems(roots) if self._certificate is None else Pems(roots, *self._certificate.read())


def checked_pem(where: str, name: str, value: object) -> Pem:
    """Return the bytes of a PEM file, or its absolute path; raises `PlanError`."""
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        path = os.fspath(value)
        if isinstance(path, str) and "-----BEGIN" in path:
            raise PlanError(f"{name} is the text of a PEM file; give its path, or its bytes", where=where)
        if isinstance(path, str):
            return absolute(path)
    raise PlanError(f"{name} must be the path of a PEM file, or its bytes", where=where)


def check_client_tls(where: str, root_certificates: object, certificate: object) -> Pem | None:
    """Make sure of what a client is to trust and to show; return the first; raises `PlanError`."""
    if certificate is not None and not isinstance(certificate, Certificate):
        raise PlanError("certificate must be a polku.Certificate(chain, key)", where=where)
    return None if root_certificates is None else checked_pem(where, "root_certificates", root_certificates)


def _read(name: str, pem: Pem) -> bytes:
    if isinstance(pem, bytes):
        return pem
    try:
        with open(pem, "rb") as file:
            return file.read()
    except OSError as error:
        fix = "name a PEM file that this user may read"
        raise ConnectionError(f"{name}={os.fspath(pem)!r}: cannot be read ({error.strerror}); {fix}") from None


def _context(pems: Pems, protocols: list[str]) -> ssl.SSLContext:
    if pems.roots is not None and not pems.roots.strip():  # `ssl` would trust the system's then
        raise ConnectionError("root_certificates: cannot be used (there are none); write them as PEM")
    try:
        context = ssl.create_default_context(
            cadata=None if pems.roots is None else pems.roots.decode("ascii", "replace")
        )
    except ssl.SSLError as error:
        raise ConnectionError(f"root_certificates: cannot be used ({_reason(error)}); write them as PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(protocols)
    if pems.chain is not None and pems.key is not None:
        _load_pair(context, pems.chain, pems.key)
    return context


def _load_pair(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Load what `ssl` reads from files alone; they stand in a folder of this user's for that moment."""
    import tempfile  # for who has certificates: a gateway is ready sooner

    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("chain", "key")]
        for path, content in zip(paths, (chain, key), strict=True):
            with open(path, "wb") as file:
                file.write(content)
        try:
            context.load_cert_chain(paths[0], paths[1], password=_no_passphrase)
        except _EncryptedError:
            raise ConnectionError("certificate: its key is protected by a passphrase; write it without one") from None
        except (ssl.SSLError, OSError, ValueError) as error:
            fix = "write both as PEM, and the key that the certificate was made with"
            raise ConnectionError(f"certificate: chain and key cannot be used ({_reason(error)}); {fix}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


class _EncryptedError(Exception):
    pass


def _no_passphrase() -> str:
    """Instead of asking for it at the terminal."""
    raise _EncryptedError
