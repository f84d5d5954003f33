"""Which address the statistics, metrics and health of a pipeline are to be served at."""

from __future__ import annotations

from dataclasses import dataclass, field

from polku.errors import SettingError
from polku.host import is_local

DEFAULT = "127.0.0.1:50052"
OFF = "off"


@dataclass(frozen=True, slots=True)
class Admin:
    """Where the admin address is to be: `host:port` or `unix:path`, and the token that readers must send.

    With `searches` the next ports are tried where that is taken, and none at all is no error.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    searches: bool = False


def admin_of(address: str | None, token: str | None) -> Admin | None:
    """Return what an address (None: the default, `off`: none) and a token ask for; raises `SettingError`."""
    if address is None:
        return Admin(DEFAULT, token, searches=True)
    if address == OFF:
        return None
    if not token and not is_local(address):
        fix = "is not of this machine alone: set POLKU_ADMIN_TOKEN to a token that its readers send, or use 127.0.0.1"
        raise SettingError("admin_addr", address, fix)
    return Admin(address, token)
