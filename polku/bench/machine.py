"""Say on what a measurement was made."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("polku", "ray", "grpcio", "protobuf", "uvloop")


def machine() -> dict[str, Any]:
    """Return the machine, the versions, the time, and how busy the machine was with other work."""
    return {
        "cores": os.cpu_count(),
        "processor": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.processor() or platform.machine(),
        "memory_gb": round(int(_first(r"MemTotal:\s+(\d+) kB", "/proc/meminfo") or 0) / 1e6, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": round(os.getloadavg()[0], 2),
    }


def describe(fields: dict[str, Any]) -> str:
    """Return it as a line for people."""
    versions = ", ".join(f"{name} {version}" for name, version in fields["versions"].items())
    where = f"{fields['cores']} cores ({fields['processor']}), {fields['memory_gb']} GB, {fields['system']}"
    return f"{where}; Python {fields['python']}, {versions}; {fields['time']}, load average {fields['load_average']}"


def _first(pattern: str, file: str) -> str:
    try:
        found = re.search(pattern, Path(file).read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
