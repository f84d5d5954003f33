"""Make the names of files and folders survive the loss of power, not only what is in them.

To `fsync` a file says nothing about its name, which stands in its folder; to `fsync` that folder says nothing about the
folder's own name in the one above it (POSIX; ext4 happens to write both at once, others do not).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from itertools import pairwise
from pathlib import Path

PRIVATE = 0o600
"""The mode of what may be read by its user alone: it holds events."""
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks and such in the kernel's table of mounts
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)  # of file systems that sync no folders, or have nothing to sync


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing, and those above it; its whole path is on disk at the return.

    Also where it was there already: who made it may have been killed before its name was on disk. Raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sync_folders(folder)


def make_private(path: Path) -> None:
    """Make a file that its user alone may read where there is none; one that is there keeps its permissions.

    What SQLite puts beside a database has those of the database. Raises `OSError`, also for a link that leads nowhere.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE))


def sync_file(path: Path, *, upto: Path | None = None) -> None:
    """Bring a file, its name and those of the folders above it to the disk, as `sync_folders` does; raises `OSError`.

    Not for the file of a database that this process may have open: to close a file ends all locks of its process on it.
    """
    sync(path)
    sync_folders(path.parent, upto=upto)


def sync_folders(folder: Path, *, upto: Path | None = None) -> None:
    """Bring the names in a folder, and its own in those above it, to the disk; raises `OSError`.

    `upto` is the last folder above it whose names may be new; without it all are synced. Those that this process may
    not read are left out, for it made nothing there, and so are those of another file system: they hold a mount point.
    """
    folder = Path(os.path.realpath(folder))
    last = None if upto is None else Path(os.path.realpath(upto))
    sync(folder)
    device = folder.stat().st_dev
    for below, above in pairwise((folder, *folder.parents)):
        if below == last or above.stat().st_dev != device:
            return
        with contextlib.suppress(PermissionError):
            sync(above)


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> tuple[Path, str]:
    """Return the mount that a path lies on and the kind of its file system; an empty one where that is not known."""
    real = Path(os.path.realpath(path))
    mount, kind = Path("/"), ""
    try:
        mounts = table.read_text(errors="surrogateescape")
    except OSError:
        return mount, kind
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields.split(" ")[4]))
        if real.is_relative_to(point) and point.is_relative_to(mount):  # what is mounted later lies on top
            mount, kind = point, rest.split(" ")[0]
    return mount, kind
