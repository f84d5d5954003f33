"""The settings of tokens: the path of their file, the stamp, and secrets that stand in files of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from polku.checks import absolute
from polku.errors import PlanError, SettingError
from polku.lazy import pattern
from polku.security.rights import RESERVED

STAMP = "polku.principal"
"""The usual metadata entry with the name of an event's principal."""
FILE = "_FILE"
"""The end of the variable that names the file of a secret."""
_ORIGIN = pattern(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def tokens_path(path: object) -> str:
    """Return the whole path of a token file; raises `PlanError`."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise PlanError(f"tokens={path!r} must be the path of a file such as 'tokens.toml'", where="security")
    return absolute(str(os.fspath(path)))


def check_stamp(stamp: object) -> str:
    """Return the metadata key of a stamp; raises `PlanError` for one that clients could write too."""
    if not isinstance(stamp, str) or (stamp and not stamp.startswith(RESERVED)):
        fix = f"must begin with {RESERVED!r}, which clients cannot write, such as 'polku.principal'"
        raise PlanError(f"stamp={stamp!r} {fix}", where="security")
    return stamp


def check_origins(origins: object) -> tuple[str, ...]:
    """Return the origins of pages that may send; raises `PlanError`."""
    found = () if isinstance(origins, (str, bytes)) or not isinstance(origins, Iterable) else tuple(origins)
    if isinstance(origins, (str, bytes)) or (not found and origins not in ((), [])):
        raise PlanError(f"origins={origins!r} must be a list, such as ['https://app.example.org']", where="security")
    for origin in found:
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            fix = "write scheme, name and, where it is another than usual, port: https://app.example.org"
            raise PlanError(f"origins: {origin!r} is no origin of a page; {fix}", where="security")
    return found


def tokens_of_environment() -> str | None:
    """Return the path in `POLKU_TOKENS`; None without one."""
    text = os.environ.get("POLKU_TOKENS", "").strip()
    return absolute(text) if text else None


def secret_of(environment: Mapping[str, str], name: str) -> str | None:
    """Return the secret in a variable, or in the file that `NAME_FILE` names; None without either.

    Raises `SettingError`, which does not show it.
    """
    text, path = environment.get(name, "").strip(), environment.get(name + FILE, "").strip()
    if not path:
        return text or None
    if text:
        raise SettingError(name + FILE, path, f"{name} is set too; leave one of them out")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        fix = "name a file that this user may read"
        raise SettingError(name + FILE, path, f"cannot be read ({reason}); {fix}") from None
    if not text:
        raise SettingError(name + FILE, path, "is empty; write the secret into it")
    return text
