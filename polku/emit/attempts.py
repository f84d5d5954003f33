"""Tell from an exception that ended a call whether it counts as an attempt: as a verdict about these events."""

from __future__ import annotations

import errno

from polku.errors import MisconfiguredError, RetryableError
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


def is_attempt(error: Exception | None) -> bool:
    """Return whether a failed call is one of the attempts after which events are given up.

    Not where settings are wrong, nor where this process is short of memory, files or threads: the same call with other
    events would have failed as well.
    """
    return not isinstance(error, MisconfiguredError) and not _is_shortage(error)


def is_attempt_of_code(error: Exception | None) -> bool:
    """Return the same for code that nobody has given a number of attempts: what it cannot reach may come back.

    `RetryableError` and `OSError` say so (`ConnectionError` and `TimeoutError` are such), and what Ray raises, unless
    that is the exception of a task. Anything else is taken for a fault of the code, which will fail with every attempt.
    """
    if not is_attempt(error) or isinstance(error, RetryableError) or _is_of_ray(error):
        return False
    return not isinstance(error, OSError) or error.errno in _OF_EVENTS


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


def _is_of_ray(error: Exception | None) -> bool:
    """Return whether Ray itself failed; without importing it, as most pipelines' emitters know nothing of it."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "ray.exceptions"]
    return "RayError" in names and "RayTaskError" not in names
