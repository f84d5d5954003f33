"""The example in Rust takes minutes to build the first time: that begins at once, beside the other tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent.parent.parent / "examples" / "plugins" / "rust"
_builds: list[subprocess.Popen[bytes]] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(item.path.name == "test_plugins.py" and "[rust]" in item.name for item in session.items)
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if wanted and first and not session.config.option.collectonly and shutil.which("cargo"):
        command = ["nice", "cargo", "build", "--quiet"]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        _builds.append(subprocess.Popen(command, cwd=_FOLDER, **silent))  # type: ignore[call-overload]


def pytest_sessionfinish(session: pytest.Session) -> None:
    for build in _builds:  # the test that needs it waits for cargo's own lock; without it nobody does
        build.terminate()
        build.wait()
