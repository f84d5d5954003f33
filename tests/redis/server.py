"""A real redis-server for tests, with its data in a file that survives its death."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Pair
from tests.support.ports import free_port

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed")


class Server:
    """A server on a port of its own; everything is on disk before it is answered."""

    def __init__(self, *options: str, authority: Path | None = None, pair: Pair | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="polku-redis-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._tls: dict[str, Any] = {}
        if authority is not None and pair is not None:
            self.url = f"rediss://localhost:{self.port}/0"
            files = {"cert": pair.cert, "key": pair.key, "ca-cert": authority}
            named = [text for name, path in files.items() for text in (f"--tls-{name}-file", str(path))]
            self._options = ("--port", "0", "--tls-port", str(self.port), *named, *options)
            self._tls = {"ssl": True, "ssl_ca_certs": str(authority), "ssl_check_hostname": False}
            self._tls |= {"ssl_certfile": str(pair.cert), "ssl_keyfile": str(pair.key)}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [str(PROGRAM), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *self._options]
        output = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=output, stderr=output)
        output.close()
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def client(self, **options: Any) -> Any:
        """Return a client that is not async."""
        import redis

        return redis.Redis(port=self.port, **self._tls, **options)

    def kill(self) -> None:
        """Kill it: what it confirmed is in its file."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop_answering(self) -> None:
        """Have it do nothing, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """Have it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, and remove what it stored."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import redis

        try:
            with self.client(socket_timeout=1.0) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
