"""What of the gateway others can reach, and whether anything keeps them out."""

from __future__ import annotations

import os
from collections.abc import Iterator

from polku.errors import SettingError
from polku.gateway.addresses import Doors
from polku.host import is_local

_FIX = "use 127.0.0.1, or --tls-cert, --tls-key and --tokens; --insecure (POLKU_INSECURE=1) if that is meant"
_ADMIN_FIX = "use 127.0.0.1, unix:PATH or https://HOST:PORT; --insecure (POLKU_INSECURE=1) if that is meant"
_HTTPS = "https://"
_NO_TLS, _NO_TOKENS = "without TLS", "without authentication"


def exposure(doors: Doors) -> str:
    """Return in one line which addresses are open to others without TLS or authentication; empty for none."""
    found = {name: f"{name} {address} is open to others {lacks}" for name, address, lacks in _exposed(doors)}
    fix = _ADMIN_FIX if found.keys() == {"admin"} else _FIX
    return f"{'; '.join(found.values())}: {fix}" if found else ""


def _exposed(doors: Doors) -> Iterator[tuple[str, str, str]]:
    """Yield name and address of each port that others reach, and what it lacks."""
    addresses = {name.removesuffix("_addr"): address for name, address in doors.addresses.items()}
    if doors.admin_addr is not None:
        addresses["admin"] = doors.admin_addr
    for name, address in addresses.items():
        if is_local(address.removeprefix(_HTTPS)):
            continue
        lacks = [] if _encrypts(doors, name, address) else [_NO_TLS]
        if not _authenticates(doors, name):
            lacks.append(_NO_TOKENS)
        if lacks:
            yield name, address, " and ".join(lacks)


def check_exposure(doors: Doors) -> None:
    """Raise `SettingError` where `security(require=True)` forbids what is open."""
    if doors.require and (text := exposure(doors)):
        _, address, _ = next(_exposed(doors))
        raise SettingError("security(require=True)", address, text.partition("; --insecure")[0])


def insecure_of_environment() -> bool:
    """Return whether `POLKU_INSECURE` says that an open address is meant; raises `SettingError`."""
    text = os.environ.get("POLKU_INSECURE", "").strip()
    if text.lower() not in ("", "0", "1", "false", "true"):
        raise SettingError("POLKU_INSECURE", text, "write 1 (an open address is meant) or 0")
    return text.lower() in ("1", "true")


def _encrypts(doors: Doors, name: str, address: str) -> bool:
    return address.startswith(_HTTPS) if name == "admin" else doors.tls is not None


def _authenticates(doors: Doors, name: str) -> bool:
    if name == "admin":  # off loopback it is not open without a token
        return True
    if doors.tokens is not None or (name in ("http", "otlp_http") and doors.http_token):
        return True
    return doors.tls is not None and doors.tls.client_ca is not None and doors.tls.client_auth == "required"
