"""Tell systemd how the service is, where it asks: `Type=notify`, `notify-reload`, `WatchdogSec=`.

systemd names a datagram socket in `NOTIFY_SOCKET`; each message is a few lines `NAME=value` (sd_notify(3)). Without the
variable nothing is sent. A message that cannot be sent is no reason to stop a gateway, and is given up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping

from polku.text import line


class Notifier:
    """Send the states of a service to the socket that the environment names.

    The name is taken out of the environment: the processes that this one starts have nothing to report.
    """

    def __init__(self, environment: MutableMapping[str, str], *, pid: int | None = None) -> None:
        name = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._seconds = _watchdog_seconds(environment, os.getpid() if pid is None else pid) / 2
        self._end = threading.Event()

    def ready(self, status: str) -> None:
        """Report that the service takes events."""
        self._send("READY=1", f"STATUS={line(status)}")

    def reloading(self) -> None:
        """Report that the service loads its file again, until it reports that it is ready: `Type=notify-reload`."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}")

    def stopping(self, seconds: float) -> None:
        """Report that the service drains, for so many seconds at most: systemd waits that much longer."""
        self._send("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={int((seconds + 5) * 1_000_000)}")

    def watch(self, stuck: Callable[[], float]) -> None:
        """Give a sign of life in every half of the time that systemd waits for one, from a thread of its own.

        `stuck` returns for how many seconds the event loop has owed a turn: while it owes one there is no sign.
        """
        if not self._address or not self._seconds:
            return

        def run() -> None:
            stuck()
            while not self._end.wait(self._seconds):
                if not stuck():
                    self._send("WATCHDOG=1")

        threading.Thread(target=run, name="polku-watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop the signs of life."""
        self._end.set()

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "\0")):
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)


def _watchdog_seconds(environment: Mapping[str, str], pid: int) -> float:
    """Return how long systemd waits for a sign of life of this process; 0 where it does not."""
    text = environment.get("WATCHDOG_USEC", "")
    meant_for = environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (meant_for and meant_for != str(pid)):
        return 0.0
    return int(text) / 1_000_000
