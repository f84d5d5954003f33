"""Run a plugin's program for the length of a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

_READY = 30.0


class PluginProcess:
    """A running plugin program; `address` is what it was told to listen on, in `POLKU_PLUGIN_ADDRESS`."""

    def __init__(self, command: tuple[str, ...], cwd: str | os.PathLike[str] | None, env: dict[str, str]) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        environment = {**os.environ, **env, "POLKU_PLUGIN_ADDRESS": self.address}
        self._process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout: float = 10.0) -> int:
        """Ask it to end, kill it where it does not within `timeout` seconds, and return its exit status."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                return self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait(timeout)

    def _wait(self) -> None:
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + _READY
        while True:
            if self._process.poll() is not None:
                raise AssertionError(f"the plugin ended with status {self._process.returncode} before it listened")
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing listens on {self.address} (POLKU_PLUGIN_ADDRESS) after {_READY:.0f} s")
            time.sleep(0.05)


@contextmanager
def plugin_process(
    *command: str, cwd: str | os.PathLike[str] | None = None, env: dict[str, str] | None = None
) -> Iterator[PluginProcess]:
    """Run a program that listens on the address in `POLKU_PLUGIN_ADDRESS`; it is stopped at the end of the block."""
    process = PluginProcess(command, cwd, env or {})
    try:
        yield process
    finally:
        process.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
