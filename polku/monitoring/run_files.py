"""Which pipelines of this user run on this machine: each has a small file that only this user can read.

It is in the user's runtime directory, else in one of the user's own in the temporary directory, and locked for as long
as its process lives: a file whose lock can be had, or whose process is gone, is left over and is removed. A number of
a process alone says nothing: it may be another one's by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import stat
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from polku.version import __version__

if TYPE_CHECKING:
    from polku.gateway.addresses import Addresses
    from polku.monitoring.address import Admin

_LOG = logging.getLogger(__name__)
_SUFFIX = ".json"
_MOST = 64 * 1024  # bytes of a file


class RunningPipeline(NamedTuple):
    """A pipeline that runs: its name, the program's file, the addresses that are open (empty: none), its process.

    `since` is Unix time in seconds. Who sends the `key` to the admin address as its bearer token may see events.
    `certificate` is the path of the one that an admin address with `https://` shows.
    """

    name: str
    file: str
    runtime: str
    grpc: str
    http: str
    admin: str
    key: str
    pid: int
    since: float
    version: str
    certificate: str = ""


def running_pipeline(
    name: str, runtime: str, addresses: Addresses, admin: Admin | None, admin_address: str | None
) -> RunningPipeline:
    """Return what is said of a pipeline of this process, without the key of its admin address."""
    return RunningPipeline(
        name=name,
        file=program_file(),
        runtime=runtime,
        grpc=addresses.grpc or "",
        http=addresses.http or "",
        admin=admin_address or "",
        key="",
        pid=os.getpid(),
        since=time.time(),
        version=__version__,
        certificate=os.fspath(admin.tls.cert) if admin is not None and admin.tls is not None else "",
    )


class RunFile:
    """Name a pipeline among those that run, until `close`; where that cannot be, it is not named, and nothing fails."""

    def __init__(self, pipeline: RunningPipeline) -> None:
        self._path = ""
        self._descriptor = -1
        try:
            self._write(pipeline)
        except OSError as error:
            _LOG.info("`polku ps` will not list this pipeline: %s", error)
            self.close()

    def close(self) -> None:
        """Remove the file."""
        if self._path:
            _remove(self._path)
            self._path = ""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, pipeline: RunningPipeline) -> None:
        folder = _folders()[0]
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        _check(folder)
        name = f"{pipeline.pid}-{secrets.token_hex(4)}"
        hidden = os.path.join(folder, f".{name}")
        self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._path = hidden
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.write(self._descriptor, json.dumps(pipeline._asdict()).encode())
        shown = os.path.join(folder, f"{name}{_SUFFIX}")
        os.rename(hidden, shown)  # whoever sees it finds it whole, and locked
        self._path = shown


def running() -> list[RunningPipeline]:
    """Return the pipelines of this user that run on this machine, the oldest first; remove what others left over."""
    found = [pipeline for folder in _folders() for path in _files(folder) if (pipeline := _read(path)) is not None]
    return sorted(found, key=lambda pipeline: pipeline.since)


def program_file() -> str:
    """Return the file of the program that runs here, what a command has named instead, or the script."""
    return _program or sys.argv[0]


def is_command() -> bool:
    """Return whether a command of POLKU's own runs here, and not somebody's program."""
    return bool(_program)


def name_program(file: str) -> None:
    """Choose what `program_file` returns: where a command runs a file."""
    name_command(os.path.abspath(file))


def name_command(text: str) -> None:
    """Choose what `program_file` returns where a command runs no file."""
    global _program
    _program = text


_program = ""


def _folders() -> list[str]:
    """Return the directories in which files may be, the best one first."""
    own = os.getuid()
    temporary = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), "/tmp")
    folders = [os.path.join(temporary, f"polku-{own}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        if runtime and os.stat(runtime).st_uid == own:
            folders.insert(0, os.path.join(runtime, "polku"))
    return folders


def _check(folder: str) -> None:
    """Raise `OSError` where a directory is not this user's alone."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a directory of this user alone")


def _files(folder: str) -> list[str]:
    try:
        _check(folder)
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(_SUFFIX)]
    except OSError:
        return []


def _read(path: str) -> RunningPipeline | None:
    """Return what a file says, or nothing where its process is gone; such a file is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = json.loads(os.read(descriptor, _MOST))
        pipeline = RunningPipeline(**{name: content[name] for name in RunningPipeline._fields if name in content})
        if _is_locked(descriptor) and _lives(pipeline.pid):
            return pipeline
    except (OSError, ValueError, KeyError, TypeError):
        pass
    finally:
        os.close(descriptor)
    _remove(path)
    return None


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
