"""Where a journal can be: paths and disks that never can have one are named before anything is made or moved there."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from polku.buffer.lock import was_journal
from polku.disk import mount_of
from polku.errors import JournalPathError
from polku.sqlite import APPLICATION, DEAD_LETTERS, descriptor_of

_LOG = logging.getLogger(__name__)
_SQLITE = b"SQLite format 3\0"
_NEVER = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR)

# SQLite's write-ahead log needs memory that all processes with the file share, and these give hosts none: a second one
# would damage the journal unseen.
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "coda"}
NETWORK |= {f"fuse.{name}" for name in ("sshfs", "s3fs", "gcsfuse", "mount-s3", "rclone", "davfs", "davfs2", "goofys")}
SHARED = {"ceph", "lustre", "gpfs", "gfs2", "ocfs2", "glusterfs", "beegfs", "orangefs", "9p", "virtiofs", "vboxsf"}
"""Those that several hosts may have at once: the start warns of them."""
MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


def check_place(path: Path) -> None:
    """Raise `JournalPathError` where a path or its disk can never have a journal, or has something else.

    What may pass (a disk that is full or not there yet, missing rights) is left to whoever opens it.
    """
    path = Path(os.path.realpath(path))
    _check_path(path)
    _check_disk(path)
    if not _may_be_journal(path):
        raise JournalPathError(path, "is not a journal, and was left as it is; choose another path, or move it away")


def check_letters_place(path: Path) -> None:
    """Raise `JournalPathError` where a path or its disk can never have dead letters, or has something else."""
    path = Path(os.path.realpath(path))
    _check_path(path)
    _check_disk(path)
    try:
        header = _header(path)
    except OSError:
        return
    # One without an application id may be half made; whoever opens it sees whether it has tables of another program.
    if header and not (header.startswith(_SQLITE) and _number(header, 68) in (0, DEAD_LETTERS)):
        raise JournalPathError(
            path, "is not a file of dead letters, and was left as it is; choose another path, or move it away"
        )


def warn_of_place(path: Path) -> None:
    """Log what a journal's place does not protect from."""
    path = Path(os.path.realpath(path))
    _, kind = mount_of(path)
    if kind in MEMORY:
        _LOG.warning("journal %s: is on %s, in memory: its events are lost when the machine stops", path, kind)
    elif kind in SHARED or kind.startswith("fuse"):
        _LOG.warning(
            "journal %s: is on %s, which hosts may share: only one of them may write it, the one that opened it last",
            path,
            kind,
        )
    links = path.stat().st_nlink
    if links > 1:
        _LOG.warning(
            "journal %s: the file has %d names (hard links); only one may be opened, always the same", path, links
        )


def is_ours(path: Path) -> bool:
    """Return whether a file is a journal, or was one before it was damaged."""
    if was_journal(path) or Path(f"{path}.reserve").exists():
        return True
    header = _header(path)
    if not header.startswith(_SQLITE):
        return False
    application, version = _number(header, 68), _number(header, 60)
    if application == DEAD_LETTERS:
        raise JournalPathError(path, "is a file of dead letters, not a journal; `polku dlq list` shows it")
    # Format 1, and a file whose making was cut short, have no application id, but pages of 32 KiB, given back singly.
    has_our_pages = header[16:18] == b"\x80\0" and _number(header, 64) == 1
    return application == APPLICATION or (application == 0 and version in (0, 1) and has_our_pages)


def check_ours(path: Path) -> None:
    """Raise `JournalPathError` where a file is not known as ours, before a repair moves it away."""
    if not is_ours(path):
        raise JournalPathError(path, "may be another program's file, and was left as it is")


def _check_path(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in _NEVER:
            raise JournalPathError(path, f"{_obstacle(path, error)}; choose another path") from None
        return
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise JournalPathError(path, f"is {what}; choose another path")


def _obstacle(path: Path, error: OSError) -> str:
    for folder in path.parents:
        if os.path.lexists(folder) and not folder.is_dir():
            return f"{folder} is no folder"
    return os.strerror(error.errno or 0)


def _check_disk(path: Path) -> None:
    mount, kind = mount_of(path)
    if kind in NETWORK:
        reason = (
            f"is on {kind}, over the network, where SQLite's write-ahead log cannot work; use a disk of this machine"
        )
        raise JournalPathError(path, reason)
    if mount == path:
        reason = "is a mount of a single file, and its write-ahead log would not be on that disk; mount its folder"
        raise JournalPathError(path, reason)


def _may_be_journal(path: Path) -> bool:
    """Return whether a file is a journal or can become one, as far as its header tells."""
    try:
        return not _header(path) or is_ours(path)
    except OSError:
        return True


def _header(path: Path) -> bytes:
    try:
        with descriptor_of(path) as descriptor:
            return os.pread(descriptor, 100, 0)
    except FileNotFoundError:
        return b""


def _number(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 4], "big")
