"""What processes have used so far: CPU seconds and private memory, from Linux' `/proc`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_SCHEDULED = 2  # with a process's number it makes the number of its CPU clock, in nanoseconds where /proc has ticks
_ANONYMOUS = re.compile(r"RssAnon:\s+(\d+) kB")


class Usage(NamedTuple):
    """CPU seconds, user's and system's, since the start; bytes of private memory (RssAnon) now."""

    cpu_seconds: float
    memory_bytes: int


def usage(pid: int) -> Usage | None:
    """Return what a process has used; None where it is gone, or the system has no `/proc`."""
    try:
        seconds = time.clock_gettime((~pid << 3) | _SCHEDULED)
        found = _ANONYMOUS.search((_PROC / str(pid) / "status").read_text())
    except OSError:
        return None
    return Usage(seconds, int(found[1]) * 1024 if found else 0)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    parents: dict[int, int] = {}
    for entry in _PROC.glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        todo += children
    return found


def usage_by_part(root: int, parts: Mapping[int, str], others: str) -> dict[str, Usage]:
    """Return the usage of the named processes, and, under `others`, of all other descendants of the root together."""
    rest = [pid for pid in descendants(root) if pid not in parts]
    named = {name: known for pid, name in parts.items() if (known := usage(pid)) is not None}
    together = _sum(known for pid in rest if (known := usage(pid)) is not None)
    return {**named, **({others: together} if rest else {})}


def _sum(usages: Iterable[Usage]) -> Usage:
    every = list(usages)
    return Usage(sum(each.cpu_seconds for each in every), sum(each.memory_bytes for each in every))
