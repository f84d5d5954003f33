"""The listening sockets of POLKU and of Ray on this machine, and who may reach each (Linux)."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from polku.host import is_loopback

_LISTEN = "0A"
_UNIX_LISTENS = 0x10000  # the flag __SO_ACCEPTCON in /proc/net/unix
_RAY_PROGRAMS = ("raylet", "gcs_server")
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class Listener(NamedTuple):
    """One listening socket: who may connect, in words, and whether others than this machine may.

    `asks_token` is whether it is Ray's, of a Ray that wants a token of who connects.
    """

    owner: str
    pid: int
    process: str
    address: str
    reach: str
    is_open: bool
    asks_token: bool = False


def listeners(proc: Path = Path("/proc"), pids: tuple[int, ...] = ()) -> list[Listener]:
    """Return the listening sockets of POLKU, of Ray and of the processes `pids`, by owner and address.

    Those of another user's processes cannot be seen except by root.
    """
    sockets = {**_tcp(proc / "net" / "tcp"), **_tcp(proc / "net" / "tcp6"), **_unix(proc / "net" / "unix")}
    found: dict[str, Listener] = {}
    for pid, words in _processes(proc):
        owner = "polku" if pid in pids else _owner(words)
        if not owner:
            continue
        guarded = owner == "ray" and _asks_token(proc / str(pid) / "environ")
        for inode in _inodes(proc / str(pid) / "fd"):
            if inode in sockets:
                address, reach, is_open = sockets[inode]
                # the first process of several that share a socket is the one that opened it
                found.setdefault(inode, Listener(owner, pid, _title(words), address, reach, is_open, guarded))
    return sorted(found.values(), key=lambda one: (one.owner, not one.is_open, one.address))


def _owner(words: list[str]) -> str:
    """Return whose a process is, by its command line: `polku`, `ray`, or nobody's that is of interest."""
    names = [os.path.basename(word) for word in words]
    if words[0].startswith("ray::") or names[0] in _RAY_PROGRAMS or any("/ray/" in word for word in words[:4]):
        return "ray"
    as_module = any(one == "-m" and other.partition(".")[0] == "polku" for one, other in pairwise(words))
    as_script = names[0] == "polku" or (names[0].startswith("python") and "polku" in names[1:2])
    return "polku" if as_module or as_script else ""


def _asks_token(environment: Path) -> bool:
    try:
        return b"RAY_AUTH_MODE=token" in environment.read_bytes().split(b"\0")
    except OSError:
        return False


def _title(words: list[str]) -> str:
    names = [os.path.basename(word) for word in words if not word.startswith("-")]
    shown = names[0] if names[0] in _RAY_PROGRAMS or words[0].startswith("ray::") else " ".join(names[:3])
    return shown[:40]


def _processes(proc: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each process and the words of its command line."""
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        words = [word for word in line.decode(errors="replace").split("\0") if word]
        if words:
            yield int(folder.name), words


def _inodes(folder: Path) -> Iterator[str]:
    try:
        names = list(folder.iterdir())
    except OSError:  # it ended, or is another user's
        return
    for name in names:
        try:
            found = _SOCKET.match(os.readlink(name))
        except OSError:
            continue
        if found:
            yield found[1]


def _tcp(table: Path) -> dict[str, tuple[str, str, bool]]:
    """Return address, reach and openness of each listening socket of a table of the kernel, by inode."""
    sockets = {}
    for line in _lines(table):
        words = line.split()
        if words[3] == _LISTEN:
            host, port = _address(words[1])
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            sockets[words[9]] = (shown, _reach(host), not is_loopback(host))
    return sockets


def _address(text: str) -> tuple[str, int]:
    """Read an address as the kernel writes it: words of 32 bits in the machine's order, in hexadecimal."""
    host, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)


def _reach(host: str) -> str:
    if is_loopback(host):
        return "every user of this machine"
    if ipaddress.ip_address(host).is_unspecified:
        return "whoever reaches this machine, at any of its addresses"
    return f"whoever reaches {host}"


def _unix(table: Path) -> dict[str, tuple[str, str, bool]]:
    sockets = {}
    for line in _lines(table):
        words = line.split(maxsplit=7)
        if int(words[3], 16) & _UNIX_LISTENS:
            path = words[7] if len(words) > 7 else ""
            sockets[words[6]] = (f"unix:{path}", _unix_reach(path), False)
    return sockets


def _unix_reach(path: str) -> str:
    """Return who may connect to a socket in the file system: it is written to, and its folders are passed through."""
    if not path.startswith("/"):
        return "every user of this machine"  # an abstract name has no owner
    try:
        least = os.stat(path)
        folders = [os.stat(folder) for folder in Path(path).parents]
    except OSError:
        return "nobody that this user can tell"
    if least.st_mode & stat.S_IWOTH and all(folder.st_mode & stat.S_IXOTH for folder in folders):
        return "every user of this machine"
    group = least.st_mode & stat.S_IWGRP and all(folder.st_mode & (stat.S_IXGRP | stat.S_IXOTH) for folder in folders)
    try:
        user = pwd.getpwuid(least.st_uid).pw_name
    except KeyError:
        user = str(least.st_uid)
    return f"{user} and its group" if group else f"{user} alone"


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text().splitlines()[1:]
    except OSError:
        return []
