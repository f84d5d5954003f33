"""The committed code is what the generator makes of `proto/`."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("polku_ci_proto", ROOT / ".ci" / "proto.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.prepare()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the generator's environment cannot be made here: {error}")
    return module


@pytest.mark.timeout(300)
def test_committed_code_is_what_the_generator_makes(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate(tmp_path)

    assert _generated(ROOT / "polku") == _generated(tmp_path / "polku")


def test_the_generated_code_asks_for_no_version_of_protobuf_or_grpcio() -> None:
    for name, text in _generated(ROOT / "polku").items():
        if name.endswith(".py"):
            assert b"runtime_version" not in text, name
            assert b"GRPC_GENERATED_VERSION" not in text, name


def _generated(package: Path) -> dict[str, bytes]:
    found = {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*_pb2*.py*")}
    found = {name: text for name, text in found.items() if "__pycache__" not in name}
    assert found
    return found
