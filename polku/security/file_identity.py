"""Whether a file is still the one that was read."""

from __future__ import annotations

import os


def file_identity(path: str) -> object:
    """Return what changes with the file, also where a link to it does (as mounted secrets change)."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
