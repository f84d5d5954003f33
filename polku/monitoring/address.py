"""Which address the statistics, metrics and health of a pipeline are to be served at."""

from __future__ import annotations

from dataclasses import dataclass, field

from polku.errors import SettingError
from polku.gateway.tls import Tls
from polku.host import is_local

DEFAULT = "127.0.0.1:50052"
OFF = "off"
HTTPS = "https://"


@dataclass(frozen=True, slots=True)
class Admin:
    """Where the admin address is to be: `host:port` or `unix:path`, and the token that readers must send.

    Who sends the `read_token` reads numbers, health and the texts of errors, and no events, and changes nothing.
    With `searches` the next ports are tried where that is taken, and none at all is no error. With `tls` it is HTTPS,
    with the gateway's certificate; readers show one too where there is an `admin_client_ca`.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    searches: bool = False
    tls: Tls | None = None
    read_token: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The address as it is asked for: `https://` before it where it is that."""
        return self.address if self.tls is None else f"{HTTPS}{self.address}"


def admin_of(
    address: str | None, token: str | None, tls: Tls | None = None, *, read_token: str | None = None
) -> Admin | None:
    """Return what an address (None: the default, `off`: none) and its tokens ask for; raises `SettingError`.

    One that begins with `https://` needs the gateway's `tls`.
    """
    if read_token and read_token == token:
        raise SettingError("POLKU_ADMIN_READ_TOKEN", "…", "is POLKU_ADMIN_TOKEN too; choose another one")
    if address is None:
        return Admin(DEFAULT, token, searches=True, read_token=read_token)
    if address == OFF:
        return None
    given, address = address, address.removeprefix(HTTPS)
    if given == address:
        tls = None
    elif tls is None:
        fix = "needs a certificate: set POLKU_TLS_CERT and POLKU_TLS_KEY, or security(tls=Tls(cert, key))"
        raise SettingError("admin_addr", given, fix)
    if not token and not read_token and not is_local(address):
        fix = "can be reached by others: set POLKU_ADMIN_TOKEN to a token that its readers send, or use 127.0.0.1"
        raise SettingError("admin_addr", given, fix)
    return Admin(address, token, tls=None if tls is None else tls.of_admin, read_token=read_token)
