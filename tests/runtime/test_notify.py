"""What systemd is told: where it asks, in its form, and a sign of life only while the event loop turns."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku.runtime.notify import Notifier
from tests.support.server import Server


class Systemd:
    """The other end of `NOTIFY_SOCKET`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)

    def told(self) -> list[str]:
        """Return the lines of the next message."""
        return self.socket.recv(4096).decode().splitlines()

    def hears_nothing(self, seconds: float) -> bool:
        """Return whether no message comes for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    end = Systemd(tmp_path / "notify")
    yield end
    end.socket.close()


def test_states_are_reported_in_lines(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path)}
    notifier = Notifier(environment)

    assert environment == {}  # what this process starts has nothing to report
    notifier.ready("on port 1\nFDSTORE=1")
    assert systemd.told() == ["READY=1", "STATUS=on port 1\\nFDSTORE=1"]
    before = time.monotonic()
    notifier.reloading()
    text, micros = systemd.told()
    assert text == "RELOADING=1"
    assert before <= int(micros.removeprefix("MONOTONIC_USEC=")) / 1e6 + 1e-6 <= time.monotonic() + 1e-6
    notifier.stopping(30)
    assert systemd.told() == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=35000000"]


def test_the_name_may_be_abstract() -> None:
    name = f"polku-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0{name}")
        end.settimeout(20)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready("well")
        assert end.recv(100) == b"READY=1\nSTATUS=well"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_nobody_has_to_listen(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready("x")
    notifier.watch(lambda: 0.0)
    notifier.close()


def test_a_sign_of_life_is_given_only_while_the_event_loop_turns(systemd: Systemd) -> None:
    stuck = 0.0
    notifier = Notifier({"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "20000"}, pid=7)
    notifier.watch(lambda: stuck)

    assert systemd.told() == systemd.told() == ["WATCHDOG=1"]
    stuck = 0.1
    while not systemd.hears_nothing(0.1):  # what was sent before
        pass
    notifier.close()


def test_the_watchdog_of_another_process_is_left_alone(systemd: Systemd) -> None:
    variables = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "8"}
    notifier = Notifier(variables, pid=7)
    notifier.watch(lambda: 0.0)

    assert systemd.hears_nothing(0.05)


def test_a_server_reports_its_start_its_life_and_its_drain(systemd: Systemd, tmp_path: Path) -> None:
    server = Server(
        tmp_path / "server",
        "serve",
        POLKU_RUNTIME="inline",
        POLKU_GRPC_ADDR="127.0.0.1:0",
        NOTIFY_SOCKET=str(systemd.path),
        WATCHDOG_USEC="200000",
    )
    try:
        ready = systemd.told()
        assert ready[0] == "READY=1"
        assert server.address in ready[1]
        assert systemd.told() == ["WATCHDOG=1"]
        server.process.send_signal(signal.SIGTERM)
        while (told := systemd.told()) == ["WATCHDOG=1"]:
            pass
        assert told[0] == "STOPPING=1"
        assert server.process.wait(120) == 0
    finally:
        server.stop(signal.SIGKILL)
