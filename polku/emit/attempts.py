"""Tell from an exception that ended a call whether it counts as an attempt: as a verdict about these events."""

from __future__ import annotations

import errno
import socket
import ssl

from polku.emit.unreachable import is_of_settings
from polku.errors import PolkuError, RetryableError
from polku.text import BLOCK, block, redacted

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# What the events themselves may cause: a path or a message made of them that cannot be.
_OF_EVENTS = frozenset(
    {
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EFBIG,
        errno.EMSGSIZE,
        errno.E2BIG,
    }
)


# What Python raises where code is wrong, or does not fit an event. What a library raises may mean anything.
_OF_CODE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, NameError, ImportError)
_OF_CONNECTION = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_DEPTH = 10  # exceptions, each the cause of the one before, among which one is looked for


def is_attempt(error: Exception | None) -> bool:
    """Return whether a failed call is one of the attempts after which events are given up.

    Not where settings are wrong, nor where this process is short of memory, files or threads: the same call with other
    events would have failed as well.
    """
    return error is None or not (is_of_settings(error) or _is_shortage(error))


def is_attempt_of_code(error: Exception | None) -> bool:
    """Return the same for code that nobody has given a number of attempts: what it cannot reach may come back.

    `RetryableError` and `OSError` say so (`ConnectionError` and `TimeoutError` are such), also as the cause of what a
    library raises, and what Ray raises, unless that is the exception of a task. Anything else is taken for a fault of
    the code, which will fail with every attempt.
    """
    if not is_attempt(error) or isinstance(error, RetryableError) or _is_of_ray(error) or _is_of_connection(error):
        return False
    return not isinstance(error, OSError) or error.errno in _OF_EVENTS


def is_sure_of_code(error: Exception) -> bool:
    """Return whether code is wrong, or does not fit an event: Python's own exceptions say so, those of libraries not.

    Many a library has an exception of its own for a destination that is down.
    """
    return isinstance(error, (*_OF_CODE, PolkuError)) or type(error).__module__ == "builtins"


def remote_trace(error: BaseException | None) -> str:
    """Return the traceback of what a task of Ray raised in another process, empty for any other exception."""
    if not any(kind.__name__ == "RayTaskError" for kind in type(error).__mro__):
        return ""
    return block(redacted(block(error, 2 * BLOCK), 4 * BLOCK))


def _is_shortage(error: Exception | None) -> bool:
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, MemoryError)


def _is_of_connection(error: BaseException | None) -> bool:
    """Return whether an exception stands for one of a connection: those of clients of HTTP and databases often do."""
    for _ in range(_DEPTH):
        if error is None:
            return False
        if error.__cause__ is not None:
            error = error.__cause__
        elif error.__suppress_context__ or not isinstance(error, Exception) or is_sure_of_code(error):
            return False
        else:
            error = error.__context__
        if isinstance(error, _OF_CONNECTION) or (isinstance(error, OSError) and error.errno in _UNREACHABLE):
            return True
    return False


def _is_of_ray(error: Exception | None) -> bool:
    """Return whether Ray itself failed; without importing it, as most pipelines' emitters know nothing of it."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "ray.exceptions"]
    return "RayError" in names and "RayTaskError" not in names
