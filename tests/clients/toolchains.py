"""Client programs built from their sources; a test is skipped where the tools or libraries of its own are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent


def go_client(work: Path) -> list[str]:
    """Build the client in Go."""
    need("go")
    run(["go", "build", "-o", str(work / "client"), "."], SOURCES / "go", {"GOFLAGS": "-modcacherw"})
    return [str(work / "client")]


def go_sink(work: Path) -> list[str]:
    """Build the sink in Go."""
    need("go")
    run(["go", "build", "-o", str(work / "sink"), "./sink"], SOURCES / "go", {"GOFLAGS": "-modcacherw"})
    return [str(work / "sink")]


def node_sink(work: Path) -> list[str]:
    """Install the library of the sink in Node."""
    return ["node", node_client(work)[1].replace("client.js", "sink.js")]


def node_client(work: Path) -> list[str]:
    """Install the library of the client in Node."""
    need("node")
    need("npm")
    shutil.copytree(SOURCES / "node", work, ignore=shutil.ignore_patterns("node_modules"), dirs_exist_ok=True)
    run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], work)
    return ["node", str(work / "client.js")]


def java_client(work: Path) -> list[str]:
    """Compile the client in Java."""
    return _java_program("Client", work)


def java_sink(work: Path) -> list[str]:
    """Compile the sink in Java."""
    return _java_program("Sink", work)


def _java_program(name: str, work: Path) -> list[str]:
    need("javac")
    need("mvn")
    shutil.copytree(SOURCES / "java", work, dirs_exist_ok=True)
    run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"], work)
    classes = f"{work}/classes:{work}/lib/*"
    run(["javac", "-nowarn", "-cp", classes, "-d", "classes", f"{name}.java", "Raw.java"], work)
    return ["java", "-cp", classes, name]


def rust_client(work: Path) -> list[str]:
    """Build the client in Rust."""
    return _rust_program("polku-client")


def rust_sink(work: Path) -> list[str]:
    """Build the sink in Rust."""
    return _rust_program("sink")


def _rust_program(name: str) -> list[str]:
    """Build a program; its libraries stay built beside it."""
    need("cargo")
    folder = SOURCES / "rust"
    target = Path(os.environ.get("CARGO_TARGET_DIR", folder / "target"))
    run(["cargo", "build", "--quiet"], folder)
    return [str(target / "debug" / name)]


def go_program(package: str, version: str, work: Path) -> str:
    """Return the path of a program that is installed, or built from its Go module."""
    name = package.rpartition("/")[2]
    if name != "client" and (found := shutil.which(name)):
        return found
    need("go")
    run(["go", "install", f"{package}@{version}"], work, {"GOBIN": str(work), "GOFLAGS": "-modcacherw"})
    return str(work / name)


def need(tool: str) -> None:
    """Skip the test where a tool is not installed."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run what builds a client; a test is skipped where its libraries cannot be had."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"`{' '.join(command)}` fails: {(done.stderr or done.stdout)[-400:]}")
