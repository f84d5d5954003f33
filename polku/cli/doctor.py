"""`polku doctor`: what this machine is to a gateway, and what on it should be changed."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

from polku.buffer.place import MEMORY, NETWORK, SHARED
from polku.cli.command import Argument, Exit, Option
from polku.cli.sockets import listeners
from polku.disk import mount_of
from polku.errors import SettingError
from polku.version import __version__

_PACKAGES = ("ray", "grpcio", "protobuf", "aiohttp", "uvloop", "confluent-kafka", "obstore", "pyarrow")
_FORGETS = dict.fromkeys(MEMORY, "is in memory: its files end with the machine")
_FORGETS |= {"overlay": "is a container's: it ends with that"}
_DESCRIPTORS = 4096
_FREE_BYTES = 1 << 30
_SYNC_SECONDS = 0.1
_UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)


class Finding(NamedTuple):
    """One line: its subject, what is so, and what to do about it, empty where nothing is to be done."""

    subject: str
    text: str
    fix: str = ""


def doctor(
    journal: Annotated[
        str | None, Argument(metavar="[PATH]", help="The file or folder of a journal, to look at its disk.")
    ] = None,
    pid: Annotated[
        list[int] | None, Option(metavar="PID", help="A program of yours with a pipeline; repeatable.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="For programs.")] = False,
) -> None:
    """Show what this machine is to a gateway: versions, limits, clock, the journal's disk, and every listening socket.

    The sockets are those of POLKU and of Ray, each with who may reach it; root sees those of all users. Exit status 1
    says that something should be changed: its line begins with `!`.
    """
    findings = [*_versions(), *_limits(), *_clock()]
    if journal is not None:
        findings += _disk(Path(journal))
    findings += _sockets(tuple(pid or ()))
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for subject, text, fix in findings:
            print(f"{'!' if fix else ' '} {subject:<9}{text}{f' → {fix}' if fix else ''}")
    if any(finding.fix for finding in findings):
        raise Exit(1)


def _versions() -> Iterator[Finding]:
    found = {name: _installed(name) for name in _PACKAGES}
    both = _installed("polku") and _installed("polku-core")
    fix = "both have the same files: uninstall polku-core, and install polku again" if both else ""
    yield Finding("polku", f"{__version__}{', of the packages polku and polku-core' if both else ''}", fix)
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.release()}")
    yield Finding("packages", ", ".join(f"{name} {text}" for name, text in found.items() if text))


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = hard if hard != resource.RLIM_INFINITY else sys.maxsize
    few = f"a connection takes one: allow {_DESCRIPTORS} (ulimit -n, LimitNOFILE)" if least < _DESCRIPTORS else ""
    yield Finding("files", f"{soft} may be open, {_limit(hard)} once polku raises it", few)
    yield Finding("cpus", f"{_usable_cpus()} of {os.cpu_count()}{_quota()}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", f"{_size(total)}{_memory_limit()}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        yield Finding("shm", f"{_size(usage.free)} free of {_size(usage.total)} in /dev/shm, where Ray keeps objects")


def _limit(number: int) -> str:
    return "any number" if number == resource.RLIM_INFINITY else str(number)


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> str:
    quota, _, period = _cgroup("cpu.max").partition(" ")
    return f", {int(quota) / int(period):g} by the control group" if quota.isdecimal() and period.isdecimal() else ""


def _memory_limit() -> str:
    text = _cgroup("memory.max")
    return f", {_size(int(text))} by the control group" if text.isdecimal() else ""


def _cgroup(name: str) -> str:
    """Return a value of this process's control group (version 2), as a container sees it; empty where there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""


def _clock() -> Iterator[Finding]:
    """Tell whether the kernel holds the clock to be synchronised: ages and expiries rely on it."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    state = _kernel_clock()
    if state is None:
        yield Finding("clock", f"{now}; whether it is synchronised cannot be told here")
        return
    fix = "run chrony or systemd-timesyncd: certificates, tokens and the ages of events go by it"
    yield Finding("clock", f"{now}, {'synchronised' if state else 'not synchronised'}", "" if state else fix)


def _kernel_clock() -> bool | None:
    """Return whether the clock is synchronised; None where it cannot be told."""
    if sys.platform != "linux":
        return None
    values = (ctypes.c_byte * 512)()  # struct timex, with its 208 bytes, whose first field, modes, is 0: only ask
    try:
        state = ctypes.CDLL(None).adjtimex(values)
    except (OSError, AttributeError):
        return None
    status = ctypes.c_int.from_buffer(values, 40 if ctypes.sizeof(ctypes.c_long) == 8 else 20).value
    return None if state < 0 else not status & _UNSYNCHRONISED


def _disk(path: Path) -> Iterator[Finding]:
    """Look at the file system of a journal; raises `SettingError`."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise SettingError("PATH", str(path), "there is no such folder")
    point, kind = mount_of(folder)
    fix = ""
    if kind in NETWORK | SHARED or kind.startswith("fuse"):
        fix = "a network file system may lie about locks and about what is on its disk: use a disk of this machine"
    elif kind in _FORGETS:
        fix = f"{kind} {_FORGETS[kind]}: use a disk"
    yield Finding("journal", f"{folder} is on {point}, {kind or 'a file system of unknown kind'}", fix)
    usage = shutil.disk_usage(folder)
    little = "make room: a journal that cannot grow refuses events" if usage.free < _FREE_BYTES else ""
    yield Finding("disk", f"{_size(usage.free)} free of {_size(usage.total)}", little)
    seconds = _sync_seconds(folder)
    if seconds is None:
        yield Finding("sync", f"{folder} cannot be written to by this user", "give the gateway's user the folder")
        return
    slow = "each commit of the journal waits for it: use a faster disk" if seconds > _SYNC_SECONDS else ""
    yield Finding("sync", f"{seconds * 1000:.1f} ms to bring a page to the disk, median of 5", slow)


def _sync_seconds(folder: Path) -> float | None:
    """Return how long an fsync takes, the median of five; None where the folder cannot be written to."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(5):
                file.write(b"\0" * 4096)
                file.flush()
                begin = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - begin)
    except OSError:
        return None
    return sorted(times)[2]


def _sockets(pids: tuple[int, ...]) -> Iterator[Finding]:
    if not Path("/proc/net/tcp").exists():
        yield Finding("sockets", "cannot be listed here: there is no /proc")
        return
    found = listeners(pids=pids)
    if not found:
        yield Finding("sockets", "neither polku nor Ray listens here")
    for one in found:
        yield Finding(one.owner, f"{one.address:<22} {one.reach} ({one.process}, pid {one.pid})")
    if bare := [one for one in found if one.owner == "ray" and one.is_open and not one.asks_token]:
        fix = "who reaches Ray can run programs: keep others out, or have it ask for a token (RAY_AUTH_MODE=token)"
        yield Finding("ray", f"{len(bare)} of its sockets are open to others without a token", fix)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
