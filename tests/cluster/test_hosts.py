"""The hosts themselves: they have addresses and disks of their own, and fail as they are told to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts, wait_until, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

# Answer datagrams; and ask for answers, as often as said: print how many came, and how long the last one took.
_ECHO = """
import socket
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.bind(("0.0.0.0", 9000))
while True:
    port.sendto(*port.recvfrom(100))
"""
_ASK = """
import socket, sys, time
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.settimeout(0.5)
came, took = 0, 0.0
for number in range(int(sys.argv[2])):
    began = time.monotonic()
    port.sendto(b"%d" % number, (sys.argv[1], 9000))
    try:
        while port.recv(100) != b"%d" % number:
            pass
    except OSError:
        continue
    came, took = came + 1, time.monotonic() - began
print(came, took)
"""


def ask(one: Host, other: Host, times: int = 3) -> tuple[int, float]:
    """Return how many answers came, and after how many seconds the last one."""
    came, took = one.run(sys.executable, "-c", _ASK, other.address, str(times)).split()
    return int(came), float(took)


def echo(host: Host, other: Host) -> None:
    host.start(sys.executable, "-c", _ECHO)
    wait_until(lambda: ask(other, host)[0], "an answer")


def test_hosts_are_cut_off_disturbed_and_killed(tmp_path: Path) -> None:
    with hosts(2, tmp_path) as (one, other):
        assert other.run("hostname").strip() == "host-2"
        echo(one, other)
        one.unplug()
        assert ask(other, one)[0] == 0
        one.plug()
        wait_until(lambda: ask(other, one)[0], "an answer")
        one.disturb(delay=0.1)
        came, took = ask(other, one)
        assert came == 3
        assert took >= 0.2  # there and back
        one.calm()
        one.disturb(loss=0.2)
        assert 0 < ask(other, one, times=30)[0] < 30
        one.calm()
        one.run("sh", "-c", "echo kept > /mnt/data/file; echo lost > /mnt/file")
        one.cut_power()
        assert ask(other, one)[0] == 0
        one.switch_on()
        assert one.run("sh", "-c", "cat /mnt/data/file; ls /mnt").split() == ["kept", "data", "ray", "tmp"]
        assert (tmp_path / "host-1" / "file").read_text() == "kept\n"
        echo(one, other)
