"""What the processes of a pipeline hold: how many of each kind there are, their memory, open files and ports."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_LISTENS = "0A"  # the state of a socket in /proc/net/tcp
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_MB = 100.0  # that all processes of a kind may have more of at the end
# Ray keeps something of each actor that has ended, in its store and in the program that has created it: 0.1 to 0.5 MB a
# change of three lanes, while no object of Python's stays in that program.
_RAYS_MB = 0.8  # a change
_MOST_FILES = 50


class Held(NamedTuple):
    """What the processes of one kind hold, all together."""

    processes: int = 0
    memory_mb: float = 0.0
    files: int = 0
    ports: int = 0

    def __str__(self) -> str:
        return f"{self.processes} | {self.memory_mb:.0f} | {self.files} | {self.ports}"


def held(pids: Iterable[int]) -> dict[str, Held]:
    """Return what processes hold, by kind; one that has ended meanwhile holds nothing."""
    listening = _listening()
    found: dict[str, Held] = defaultdict(Held)
    for pid in pids:
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            memory = int((entry / "statm").read_text().split()[1]) * _PAGE / 1e6
            files = [_target(file) for file in (entry / "fd").iterdir()]
            sockets = listening.intersection(files)
            kind = kind_of((entry / "cmdline").read_bytes())
            before = found[kind]
            found[kind] = Held(
                before.processes + 1,
                before.memory_mb + memory,
                before.files + len(files),
                before.ports + len(sockets),
            )
    return dict(found)


def kind_of(command_line: bytes) -> str:
    """Return what a process is: the class of its actor, the name of its program or script, or its module."""
    words = command_line.decode(errors="replace").replace("\0", " ").split()
    first = words[0] if words else "(ended)"
    if first.startswith("ray::"):
        return re.split(r"[.:( ]", first.removeprefix("ray::"))[0]
    if "-m" in words[:6]:
        return words[words.index("-m") + 1]
    scripts = [word for word in words[1:] if word.endswith(".py")]
    return Path(scripts[0] if scripts and "python" in Path(first).name else first).name


def more(first: Mapping[str, Held], last: Mapping[str, Held], changes: int = 0) -> list[str]:
    """Return what there is more of after that many changes, when the pipeline is again what it was at first."""
    found = []
    for kind in sorted(first.keys() | last.keys()):
        before, after = first.get(kind, Held()), last.get(kind, Held())
        is_actor = kind.endswith("Shell")
        if is_actor and after.processes > before.processes:  # Ray keeps idle workers for a while
            found.append(f"{kind}: {after.processes} processes (were {before.processes})")
        if after.ports > before.ports and after.processes <= before.processes:
            found.append(f"{kind}: {after.ports} ports (were {before.ports})")
        if after.files > before.files + _MOST_FILES and after.processes <= before.processes:
            found.append(f"{kind}: {after.files} open files (were {before.files})")
        most = _MOST_MB if is_actor else _MOST_MB + _RAYS_MB * changes
        if after.memory_mb > before.memory_mb + most and after.processes <= before.processes:
            found.append(f"{kind}: {after.memory_mb:.0f} MB (were {before.memory_mb:.0f})")
    return found


def table(first: Mapping[str, Held], last: Mapping[str, Held]) -> list[str]:
    """Return a row for each kind of process: what it held at first, and at the end."""
    made = ["| process | at first | MB | files | ports | at the end | MB | files | ports |", "|" + "---|" * 9]
    for kind in sorted(first.keys() | last.keys()):
        made.append(f"| {kind} | {first.get(kind, Held())} | {last.get(kind, Held())} |")
    return made


def _listening() -> set[str]:
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _target(file: Path) -> str:
    try:
        return os.readlink(file)
    except OSError:
        return ""
