"""Which certificate the gateway's ports show, and whether clients must show one: paths alone, nothing is read here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from polku.checks import absolute
from polku.errors import PlanError, SettingError

ClientAuth = Literal["required", "optional"]
CLIENT_AUTH: tuple[str, ...] = get_args(ClientAuth)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS for the gateway's ports, gRPC and HTTP alike.

    `cert` and `key` are the paths of PEM files: the server's certificate followed by those between it and the root, and
    its private key without a passphrase. With a `client_ca` (PEM, one or several roots) clients must show a certificate
    that one of them has signed; with `client_auth="optional"` they may connect without one, but not with another one.
    Files that change are read again, within a second or two, for connections that begin then; where they cannot be
    used, the last good ones stay and the log names what is wrong. On Ray the files are read on each node with a port.

    The admin address, where it is `https://`, shows the same certificate. With an `admin_client_ca` its readers must
    show one that this has signed, besides the token: it is a setting of its own, since who may send may not look.

    Raises `PlanError` for values that can never work; the files are read when the ports open.
    """

    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]
    client_ca: str | os.PathLike[str] | None = None
    client_auth: ClientAuth = "required"
    admin_client_ca: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("cert", "key", "client_ca", "admin_client_ca"):
            value = getattr(self, name)
            if value is None and name.endswith("client_ca"):
                continue
            if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
                raise PlanError(f"{name}={value!r} must be the path of a PEM file", where="Tls")
            object.__setattr__(self, name, absolute(os.fspath(value)))
        if self.client_auth not in CLIENT_AUTH:
            raise PlanError(
                f"client_auth={self.client_auth!r} is not known; choose 'required' or 'optional'", where="Tls"
            )
        if self.client_ca is None and self.client_auth != "required":
            raise PlanError("client_auth='optional' needs a client_ca, which signs what clients may show", where="Tls")

    @property
    def of_admin(self) -> Tls:
        """What the admin address shows, and asks of its readers."""
        return Tls(self.cert, self.key, self.admin_client_ca)

    @property
    def paths(self) -> dict[str, str]:
        """The files by the name of their setting: `tls_cert`, `tls_key` and, where there is one, `tls_client_ca`."""
        files = {"tls_cert": self.cert, "tls_key": self.key, "tls_client_ca": self.client_ca}
        return {name: os.fspath(path) for name, path in files.items() if path is not None}


def tls_from(
    *,
    cert: str | None,
    key: str | None,
    client_ca: str | None,
    client_auth: str | None = None,
    admin_client_ca: str | None = None,
) -> Tls | None:
    """Return what the settings `POLKU_TLS_…` (`--tls-…`) describe, None without any; raises `SettingError`."""
    if not any((cert, key, client_ca, client_auth, admin_client_ca)):
        return None
    if not cert:
        raise SettingError("POLKU_TLS_CERT", cert or "", "is missing: name the PEM file of the server's certificate")
    if not key:
        raise SettingError("POLKU_TLS_KEY", key or "", f"is missing: name the PEM file of the private key of {cert}")
    if client_auth not in (None, "", *CLIENT_AUTH):
        raise SettingError("POLKU_TLS_CLIENT_AUTH", client_auth, f"choose one of {', '.join(CLIENT_AUTH)}")
    if client_auth and not client_ca:
        raise SettingError(
            "POLKU_TLS_CLIENT_AUTH", client_auth, "needs POLKU_TLS_CLIENT_CA, the file of the clients' CA"
        )
    auth: ClientAuth = "optional" if client_auth == "optional" else "required"
    return Tls(cert, key, client_ca or None, auth, admin_client_ca or None)


def tls_of_environment() -> Tls | None:
    """Return what the environment's `POLKU_TLS_…` variables describe, None without any; raises `SettingError`."""

    def read(name: str) -> str:
        return os.environ.get(f"POLKU_TLS_{name}", "").strip()

    return tls_from(
        cert=read("CERT"),
        key=read("KEY"),
        client_ca=read("CLIENT_CA"),
        client_auth=read("CLIENT_AUTH").lower(),
        admin_client_ca=read("ADMIN_CLIENT_CA"),
    )
