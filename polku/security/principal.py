"""Who a client is: a name, how it proves it, and what it may."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

from polku.errors import PlanError
from polku.security.rights import Rights

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}")


class Token(NamedTuple):
    """A secret, as its SHA-256, and the time from which on it is not valid any more."""

    digest: bytes
    not_after: datetime | None = None


class Subjects(NamedTuple):
    """Of which issuer's tokens (JWT) the subjects fit one of these patterns."""

    issuer: str
    patterns: tuple[str, ...]


class Principal(NamedTuple):
    """A client, or several that count as one; `certificates` are patterns of the names in theirs.

    `uids` are users of this machine, by whom a client of a Unix socket is known.
    """

    name: str
    rights: Rights
    tokens: tuple[Token, ...] = ()
    certificates: tuple[str, ...] = ()
    jwt: tuple[Subjects, ...] = ()
    uids: tuple[int, ...] = ()

    @property
    def token_end(self) -> datetime | None:
        """When the last of its tokens ends; None where one has no end, or it has none."""
        ends = [token.not_after for token in self.tokens if token.not_after is not None]
        return max(ends) if ends and len(ends) == len(self.tokens) else None


def check_name(name: str) -> str:
    """Return the name of a principal; raises `PlanError`."""
    if not _NAME.fullmatch(name):
        fix = "use letters, digits and ._@:/-, with a letter or digit first, 128 at most"
        raise PlanError(f"name={name!r} cannot be a principal's name; {fix}", where="tokens")
    return name
