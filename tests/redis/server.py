"""A real redis-server for tests, with its data in a file that survives its death."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Pair
from tests.support.real_server import RealServer

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed")


class Server(RealServer):
    """A server on a port of its own; everything is on disk before it is answered."""

    def __init__(self, *options: str, authority: Path | None = None, pair: Pair | None = None) -> None:
        super().__init__("redis")
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
        self.start()

    def client(self, **options: Any) -> Any:
        """Return a client that is not async."""
        import redis

        return redis.Redis(port=self.port, **self._tls, **options)

    def _command(self) -> list[str]:
        command = [str(PROGRAM), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [*command, "--appendonly", "yes", "--appendfsync", "always", "--save", "", *self._options]

    def _answers(self) -> bool:
        import redis

        try:
            with self.client(socket_timeout=1.0) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
