"""Hosts on one machine: each is a set of namespaces with an address, a disk and processes of its own, on one switch.

Nothing of the machine itself is changed: the switch is in a namespace too, and all of it goes with the processes that
hold it. `why_not()` says what is missing where that cannot be had.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.cluster import bad_line

NETWORK = "10.77.0"
_NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
_TOOLS = ("unshare", "nsenter", "ip", "iptables")
_START_SECONDS = 30.0
# The first process of a host: it sets the host up, and ends, all others with it, when whoever started it has ended.
_INIT = """
set -e
hostname "$1"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/data /mnt/tmp /mnt/ray
mount --bind "$2" /mnt/data
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo up
read -r _
"""


@functools.cache
def why_not() -> str:
    """Return why hosts cannot be had here; empty where they can."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"these commands are not installed: {', '.join(missing)}"
    tried = _run(
        "unshare", *_NAMESPACES, "--fork", "--mount-proc", "sh", "-c", "mount -t tmpfs tmpfs /mnt", check=False
    )
    return "" if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.strip()}"


class Switch:
    """What all hosts are connected to."""

    def __init__(self) -> None:
        self._process = _hold("unshare", "--net", "sh", "-c", "echo up; read _")
        self._ip("link", "add", "switch", "type", "bridge")
        self._ip("link", "set", "switch", "up")

    def connect(self, number: int, pid: int) -> None:
        """Give the host of a process a network card, and its address."""
        card = ("peer", "name", "eth0", "address", f"02:00:00:00:00:{number:02x}", "netns", str(pid))
        self._ip("link", "add", f"port{number}", "type", "veth", *card)
        self._ip("link", "set", f"port{number}", "up")
        self.plug(number)

    def plug(self, number: int) -> None:
        """Connect a host."""
        self._ip("link", "set", f"port{number}", "master", "switch")

    def unplug(self, number: int) -> None:
        """Lose whatever a host sends, and is sent, without a word to either side."""
        self._ip("link", "set", f"port{number}", "nomaster")

    def disconnect(self, number: int) -> None:
        """Take the network card of a host away."""
        self._ip("link", "del", f"port{number}")

    def close(self) -> None:
        """Take it away."""
        _end(self._process)

    def _ip(self, *arguments: str) -> None:
        _run("nsenter", f"--net=/proc/{self._process.pid}/ns/net", "ip", *arguments)


class Host:
    """One host: `address` on the switch, `disk`, a folder that stays when it is off; `/mnt/data` inside."""

    def __init__(self, switch: Switch, number: int, disk: Path) -> None:
        self.number, self.disk = number, disk
        self.name, self.address = f"host-{number}", f"{NETWORK}.{number}"
        self._switch = switch
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self._bursts: threading.Thread | None = None
        self._calm = threading.Event()
        self._bad_line: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[str]] = []
        disk.mkdir(parents=True, exist_ok=True)
        self.switch_on()

    @property
    def is_on(self) -> bool:
        """Whether it is on."""
        return self._process is not None

    def switch_on(self) -> None:
        """Start it, with nothing on it but what is on its disk."""
        command = ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "bash", "-c", _INIT]
        self._process = _hold(*command, "init", self.name, str(self.disk))
        own = self._process.pid
        self._pid = int(Path(f"/proc/{own}/task/{own}/children").read_text())
        self._switch.connect(self.number, self._pid)
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def cut_power(self) -> None:
        """End every process of the host at once (SIGKILL); its disk stays, with what was written to it."""
        if self._process is None:
            return
        self._calm.set()
        self._switch.disconnect(self.number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)  # the kernel ends all others with the first process
        for process in (self._process, *self._started):
            _end(process)
        self._process = None
        self._started.clear()
        self.calm()

    def start(self, *command: str, log: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a program on the host; its output goes to the log."""
        with open(log or os.devnull, "ab") as output:
            started = subprocess.Popen(
                self._inside(command), text=True, stdout=output, stderr=output, env=self._environment(environment)
            )
        self._started.append(started)
        return started

    def hold(self, *command: str, log: Path, **environment: str) -> subprocess.Popen[str]:
        """Start a program on the host that answers line by line, once it has said that it is there."""
        self._started.append(_hold(*self._inside(command), env=self._environment(environment), log=log))
        return self._started[-1]

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Return what a program on the host prints."""
        return _run(*self._inside(command), check=check, env=self._environment(environment)).stdout

    def unplug(self) -> None:
        """Lose the link: a partition."""
        self._switch.unplug(self.number)

    def plug(self) -> None:
        """Have the link again."""
        self._switch.plug(self.number)

    def disturb(self, *, loss: float = 0.0, delay: float = 0.0, seed: int = 1) -> None:
        """Lose a share of the packets, and have the others arrive seconds later, in each direction."""
        command = [sys.executable, bad_line.__file__, str(loss), str(delay), str(seed)]
        self._bad_line = _hold(*self._inside(command))
        for chain, side in (("INPUT", "-i"), ("OUTPUT", "-o")):
            self.run("iptables", "-A", chain, side, "eth0", "-j", "NFQUEUE", "--queue-num", bad_line.NUMBERS[chain])

    def slow(self, share: float, period: float = 0.2) -> None:
        """Let all processes of the host run for a share of the time only, in bursts (SIGSTOP, SIGCONT)."""
        self._calm.clear()
        self._bursts = threading.Thread(target=self._stop_and_go, args=(share, period), daemon=True)
        self._bursts.start()

    def calm(self) -> None:
        """End what disturbs or slows it."""
        self._calm.set()
        if self._bursts is not None:
            self._bursts.join()
            self._bursts = None
        if self._bad_line is not None:
            if self.is_on:
                self.run("iptables", "-F")
            _end(self._bad_line)
            self._bad_line = None

    def pids(self) -> list[int]:
        """Return the processes of the host but its first one."""
        own = os.readlink(f"/proc/{self._pid}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and int(entry.name) != self._pid and os.readlink(entry / "ns/pid") == own:
                    found.append(int(entry.name))
        return found

    def _stop_and_go(self, share: float, period: float) -> None:
        while not self._calm.is_set():
            pids = self.pids()
            _signal(pids, signal.SIGSTOP)
            self._calm.wait((1 - share) * period)
            _signal(pids, signal.SIGCONT)
            self._calm.wait(share * period)

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self._pid), *_NAMESPACES, "--", "env", "-C", os.getcwd(), *command]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "TMPDIR": "/mnt/tmp",
            "RAY_TMPDIR": "/mnt/ray",
            "HOME": "/mnt/tmp",
            "PYTHONPATH": os.getcwd(),
            **more,
        }


@contextlib.contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """Have that many hosts, whose disks are in a folder; whatever runs on them ends with them."""
    switch = Switch()
    made: list[Host] = []
    try:
        for number in range(1, count + 1):
            made.append(Host(switch, number, folder / f"host-{number}"))
        yield made
    finally:
        for host in made:
            host.cut_power()
        switch.close()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    """Return how many seconds it took until a condition held; raises `AssertionError` where it does not in time."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return time.monotonic() - started


def _hold(*command: str, env: Mapping[str, str] | None = None, log: Path | None = None) -> subprocess.Popen[str]:
    """Start a program that says when it is there, and ends when its standard input does."""
    pipe = subprocess.PIPE
    with open(log or os.devnull, "ab") as errors:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline(), f"{command} has ended"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _run(*command: str, check: bool = True, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done
