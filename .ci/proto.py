"""Generate the Python code of `proto/` into a directory: `python .ci/proto.py [OUT]`, by default the checkout itself.

The generator has its own environment, `.venv-proto`, made from `.ci/proto-requirements.txt` and made again when that
file changes. The gRPC half is written only for files that declare a service.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
REQUIREMENTS = ROOT / ".ci" / "proto-requirements.txt"
ENVIRONMENT = ROOT / ".venv-proto"
BIN = ENVIRONMENT / "bin"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", BIN / "python")


def generate(out: Path) -> None:
    """Write the modules and their stubs below `out`; raises `CalledProcessError` where a tool fails."""
    prepare()
    files = sorted(PROTO.rglob("*.proto"))
    services = [file for file in files if "\nservice " in file.read_text(encoding="utf-8")]
    _protoc(files, [f"--python_out={out}", f"--mypy_out=quiet:{out}"])
    _protoc(services, [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"])


def prepare() -> None:
    """Make the generator's environment unless it stands already."""
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    venv.create(ENVIRONMENT, clear=True)
    options = ("--quiet", "--no-deps", "--no-compile", "--only-binary=:all:")
    subprocess.run([*PIP, "install", *options, "-r", REQUIREMENTS], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def _protoc(files: list[Path], outputs: list[str]) -> None:
    plugins = [f"--plugin={name}={BIN / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [BIN / "python", "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outputs, *files]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
