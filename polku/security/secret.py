"""Secrets by reference: what is configured, printed and pickled says where a secret is, and not what it is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from polku.checks import absolute
from polku.errors import MisconfiguredError, PlanError

_ENV, _FILE = "env:", "file:"
_MOST = 64 * 1024  # bytes of a file


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A secret that is read where it is used, each time: `env:NAME` or `file:PATH`.

    Of a file the line break at its end is left out; one that is replaced counts from the next connection or request
    on. On Ray the variable or the file is that of the node where the component runs. Raises `PlanError` for any other
    reference.
    """

    reference: str

    def __post_init__(self) -> None:
        value = self.reference
        if isinstance(value, str) and value.startswith(_ENV) and value.removeprefix(_ENV).isidentifier():
            return
        if isinstance(value, str) and value.startswith(_FILE) and len(value) > len(_FILE):
            path = absolute(value.removeprefix(_FILE))
            object.__setattr__(self, "reference", f"{_FILE}{path}")
            return
        raise PlanError(
            "write Secret('env:NAME') or Secret('file:PATH'), which name the place of the secret", where="Secret"
        )

    def __repr__(self) -> str:
        return f"Secret({self.reference!r}: ***)"

    def read(self) -> str:
        """Return the secret; raises `MisconfiguredError` where there is none now."""
        if self.reference.startswith(_ENV):
            name = self.reference.removeprefix(_ENV)
            value = os.environ.get(name, "")
            if not value:
                raise MisconfiguredError(f"{self}: the variable is not set; set it where this runs")
            return value
        try:
            with open(self.reference.removeprefix(_FILE), "rb") as file:
                value = file.read(_MOST).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise MisconfiguredError(
                f"{self}: cannot be read ({reason}); write a file that this user may read"
            ) from None
        if not value:
            raise MisconfiguredError(f"{self}: the file is empty; write the secret into it")
        return value


def reveal(value: str | Secret) -> str:
    """Return a value that may be a secret; raises `MisconfiguredError` where it cannot be read now."""
    return value.read() if isinstance(value, Secret) else value
