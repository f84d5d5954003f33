"""Polku runs on Python 3.11 to 3.13 and on protobuf 5, 6 and 7: users bring their own Ray, and Ray its own protobuf.

`make test` tries each protobuf under the running Python. `make matrix` installs polku with all that it needs, for every
Python found, and once at the lower bound of every dependency; that also shows that the versions can be had together.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

CACHE = ROOT / ".venv-matrix"
SCRIPT = Path(__file__).with_name("round_trip.py")
PURE_TESTS = ("tests/wire/test_descriptors.py", "tests/ingest", "tests/middleware")
TEST_TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "time-machine")
DEPENDENCIES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
LOWEST = {
    match[1]: match[2]
    for match in (re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", entry) for entry in DEPENDENCIES)
    if match
}
# protobuf before 5.28 makes its own classes in a way that Python 3.12 and later find fault with.
WARNINGS = ("-W", "error", "-W", "ignore:Type google._upb:DeprecationWarning")
BETWEEN = [pytest.param(version, marks=pytest.mark.slow) for version in ("5.29.6", "6.30.0", "6.33.6")]
PROTOBUFS = [f"{LOWEST['protobuf']}.0", *BETWEEN, "7.34.0"]


def test_every_dependency_has_a_lower_bound_and_nothing_else() -> None:
    assert len(LOWEST) == len(DEPENDENCIES)
    assert not [entry for entry in DEPENDENCIES if "<" in entry.split(";")[0] or "==" in entry or "~=" in entry]


@pytest.mark.parametrize("protobuf", PROTOBUFS)
def test_messages_travel_unchanged_on_every_protobuf(protobuf: str) -> None:
    library = CACHE / f"protobuf-{protobuf}-{sys.implementation.cache_tag}"
    if not library.exists():
        _install_aside(protobuf, library)

    said = _round_trip(Path(sys.executable), PYTHONPATH=f"{library}{os.pathsep}{ROOT}")

    assert f"protobuf {protobuf}" in said


def test_messages_travel_unchanged_on_protobuf_without_its_extension_module() -> None:
    said = _round_trip(Path(sys.executable), PYTHONPATH=str(ROOT), PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")

    assert "messages " in said


@pytest.mark.matrix
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protobuf", ["5.26.1", "5.29.6", "6.33.6", "7.34.0", None])
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_polku_installs_and_works(version: str, protobuf: str | None, wheel: Path) -> None:
    wanted = [f"protobuf=={protobuf}"] if protobuf else []

    said = _install_and_try(_interpreter(version), f"{version}-{protobuf or 'newest'}", [str(wheel), *wanted])

    assert f"python {version}" in said
    assert f"protobuf {protobuf or ''}" in said


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_polku_installs_and_works_at_every_lower_bound(wheel: Path) -> None:
    said = _install_and_try(
        _interpreter("3.11"), "lowest", [str(wheel), *(f"{name}=={bound}" for name, bound in LOWEST.items())]
    )

    assert f"protobuf {LOWEST['protobuf']}." in said


def _interpreter(version: str) -> Path:
    """Find a Python on the path, or beside the running one; skips where there is none."""
    running = Path(sys.base_prefix)
    beside = sorted(running.parent.glob(f"{version}.*/bin/python{version}"))
    for candidate in [shutil.which(f"python{version}"), *beside]:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return Path(candidate)
    pytest.skip(f"there is no python{version} here")


def _install_aside(protobuf: str, library: Path) -> None:
    unfinished = library.with_suffix(f".{os.getpid()}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*pip, "--target", unfinished, f"protobuf=={protobuf}"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"protobuf {protobuf} cannot be had here: {done.stderr.strip()[-200:]}")
    unfinished.rename(library)


def _install_and_try(interpreter: Path, name: str, requirements: list[str]) -> str:
    """Install into a fresh environment, run the pure tests and the round trip there, and take it away again."""
    home = CACHE / name
    try:
        subprocess.run([interpreter, "-m", "venv", "--clear", home], check=True)
        python = home / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements, *TEST_TOOLS], check=True)
        subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *WARNINGS, *PURE_TESTS], cwd=ROOT, check=True
        )
        return _round_trip(python)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _round_trip(python: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | variables
    done = subprocess.run([python, *WARNINGS, SCRIPT], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout
