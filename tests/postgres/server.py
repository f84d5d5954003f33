"""A real PostgreSQL for tests: a cluster of its own in a folder, run as the user `postgres` where this is root."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Pair
from tests.support.ports import free_port

_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_PATH = os.pathsep.join([*map(str, _FOLDERS), os.environ.get("PATH", "")])
PROGRAM = shutil.which("pg_ctl", path=_PATH)
needs_postgres = pytest.mark.skipif(PROGRAM is None, reason="PostgreSQL's server is not installed")
TABLE = """CREATE TABLE IF NOT EXISTS events (id text PRIMARY KEY, time timestamptz, type text, source text,
    severity text, metadata jsonb, payload bytea, at bigint GENERATED ALWAYS AS IDENTITY)"""


class Server:
    """A server on a port of its own; what it committed is on disk.

    With a `client_ca` the role `polku` comes with a certificate of that authority in its name, and in no other way.
    """

    def __init__(self, pair: Pair | None = None, *, client_ca: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="polku-pg-"))
        _own(self.folder)
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._options = "" if pair is None else self._encrypted(pair, client_ca)
        _call("cp", "-a", str(_template()), str(self.folder / "data"))
        if client_ca is not None:
            rules = "hostssl all polku all cert\nhost all postgres all trust\n"
            (self.folder / "data" / "pg_hba.conf").write_text(rules)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c max_wal_size=64MB"
        options += self._options
        self._control("-o", options, "-w", "-t", "60", "start")
        self.query(TABLE)

    def _encrypted(self, pair: Pair, client_ca: Path | None) -> str:
        """Return the options of a server that speaks TLS; it wants a key that is its own."""
        own = Pair(self.folder / "server.pem", self.folder / "server.key")
        for file, copy in zip(pair, own, strict=True):
            shutil.copy(file, copy)
            copy.chmod(0o600)
            _own(copy)
        options = f" -c ssl=on -c ssl_cert_file={own.cert} -c ssl_key_file={own.key}"
        if client_ca is None:
            return options
        shutil.copy(client_ca, self.folder / "clients.pem")
        _own(self.folder / "clients.pem")
        return f"{options} -c ssl_ca_file={self.folder / 'clients.pem'}"

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a connection of its own."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(text.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """Break everything off: what is not committed is gone."""
        self._control("-m", "immediate", "-w", "stop")

    def close(self) -> None:
        """Stop it, and remove what it stored."""
        self._control("-m", "immediate", "-w", "stop", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *arguments: str, check: bool = True) -> None:
        _call(str(PROGRAM), "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), *arguments, check=check)


@functools.cache
def _template() -> Path:
    """Make a cluster once, to be copied."""
    folder = Path(tempfile.mkdtemp(prefix="polku-pg-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _own(folder)
    program = str(shutil.which("initdb", path=_PATH))
    _call(program, "-D", str(folder / "data"), "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8")
    return folder / "data"


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, "postgres")


def _call(*command: str, check: bool = True) -> None:
    user = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    none = subprocess.DEVNULL
    done = subprocess.run([*user, *command], stdin=none, stdout=none, stderr=none, cwd="/", timeout=120)
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}"
