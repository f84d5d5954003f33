"""Who may write a journal: the latest that took it, by a row that each commit looks at.

Locks keep the processes of one host apart. Hosts that share a volume do not see each other's, and a volume may be
attached to a second host while the first still believes that it has it: then the first finds another owner in the row,
and nothing of its commit is done.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from polku.sqlite import connect


class Owner(NamedTuple):
    """Who has a journal: a random token of its own, the process, its host (and that host's boot), the name it uses."""

    token: str
    pid: int
    host: str
    boot: str
    path: str
    since_ns: int

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since_ns / 1e9))
        return f"process {self.pid} on {self.host} (since {since}, as {self.path})"


def new_owner(path: Path) -> Owner:
    """Return an owner that is no other: this process, now."""
    name = str(path).encode(errors="replace").decode()
    return Owner(secrets.token_hex(16), os.getpid(), socket.gethostname(), _boot(), name, time.time_ns())


def current(db: sqlite3.Connection) -> Owner | None:
    """Return the owner that stands in a journal; raises SQLite's errors."""
    row = db.execute("SELECT token, pid, host, boot, path, since_ns FROM owner").fetchone()
    return None if row is None else Owner(*row)


def take(db: sqlite3.Connection, owner: Owner) -> None:
    """Write another owner into the row; in a transaction of the caller."""
    db.execute("DELETE FROM owner")
    db.execute("INSERT INTO owner(token, pid, host, boot, path, since_ns) VALUES(?,?,?,?,?,?)", owner)


def leave(db: sqlite3.Connection, owner: Owner) -> None:
    """Take an owner out at a clean end, where nothing else can be done about errors."""
    with contextlib.suppress(sqlite3.Error):
        db.execute("PRAGMA busy_timeout=200")
        db.execute("DELETE FROM owner WHERE token=?", (owner.token,))


def peek(path: Path) -> Owner | None:
    """Return the owner as far as the file tells without its log, which is not to be found under another name."""
    target = f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro&immutable=1"
    try:
        with contextlib.closing(connect(target, path)) as db:
            return current(db)
    except sqlite3.Error:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
