"""The PostgreSQL client: where it comes from, and what its errors mean."""

from __future__ import annotations

from enum import Enum
from typing import Any

from polku.errors import PlanError


class Kind(Enum):
    """Say what an error of PostgreSQL's asks for."""

    RETRY = "retry"
    """The same rows may be taken later."""
    ACCESS = "access"
    """Nothing is taken until credentials, rights, the database or the table are fixed."""
    RECORD = "record"
    """Some row will never be taken."""


# Classes and codes of appendix A of PostgreSQL's manual.
_RECORD = ("22", "23", "54")
_ACCESS = ("28", "3D", "3F", "42")
_REFUSED = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")


def load(where: str) -> Any:
    """Import the client; raises `PlanError` with the command that installs it."""
    try:
        import psycopg
    except ImportError as error:
        raise PlanError(f"needs psycopg ({error}): pip install 'polku[postgres]'", where=where) from None
    return psycopg


def kind_of(error: BaseException) -> Kind:
    """Sort an error; what is not known is worth another try."""
    import psycopg

    state = getattr(error, "sqlstate", None) or ""
    if state.startswith(_ACCESS):
        return Kind.ACCESS
    if state.startswith(_RECORD) or (not state and isinstance(error, (psycopg.DataError, UnicodeEncodeError))):
        return Kind.RECORD
    if not state and isinstance(error, psycopg.ProgrammingError) and "cannot adapt" in str(error):
        return Kind.RECORD  # what a user's function returned has no form in SQL
    if not state and isinstance(error, psycopg.OperationalError) and any(text in str(error) for text in _REFUSED):
        return Kind.ACCESS
    return Kind.RETRY


def explain(error: BaseException) -> str:
    """Return an error as a line, with its code."""
    state = getattr(error, "sqlstate", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} ({state})" if state else text
