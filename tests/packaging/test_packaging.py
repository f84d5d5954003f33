"""What people install is the whole of polku, and nothing else."""

from __future__ import annotations

import functools
import json
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import polku
from tests.packaging.conftest import ROOT, Installed, run

LIBRARIES = Path(sysconfig.get_path("purelib"))
PROBE = """
import importlib.metadata, json, sys
import polku, polku.actors
from polku.ahti.v1 import events_pb2, events_pb2_grpc
from polku.event.v1 import event_pb2
from polku.v1 import gateway_pb2, gateway_pb2_grpc, plugin_pb2, plugin_pb2_grpc

event = event_pb2.Event(id="1", metadata={"a": "b"})
assert event_pb2.Event.FromString(event.SerializeToString()) == event
print(json.dumps({
    "file": polku.__file__,
    "actors": polku.actors.__name__,
    "versions": [polku.__version__, importlib.metadata.version("polku")],
    "path": sys.path,
}))
"""


@functools.cache
def probe(installed: Installed) -> Any:
    """Return what a program finds that uses an installed polku."""
    return json.loads(installed.run("python", "-c", PROBE))


def test_every_module_is_importable(installed: Installed) -> None:
    seen = probe(installed)

    home = ROOT if installed.how == "editable" else installed.site
    assert Path(seen["file"]).is_relative_to(home)
    assert seen["actors"] == "polku.actors"


def test_nothing_but_polku_becomes_importable(installed: Installed) -> None:
    path = [Path(entry) for entry in probe(installed)["path"] if entry]
    ours = [p for p in path if p.is_relative_to(installed.root) or (p.is_relative_to(ROOT) and p != LIBRARIES)]
    names = {file.stem for entry in ours for file in entry.iterdir() if file.is_dir() or file.suffix == ".py"}

    assert names - {"__pycache__"} - {name for name in names if name.startswith("polku-")} == {"polku"}


def test_the_version_is_the_same_everywhere(installed: Installed) -> None:
    seen = probe(installed)

    assert seen["versions"] == [polku.__version__] * 2
    assert polku.__version__ in installed.run("polku", "--version").split()


@pytest.mark.slow  # `tests/typing` has mypy look at the same annotations, and the wheel has `py.typed`
@pytest.mark.parametrize("installed", ["wheel", "editable"], indirect=True)
def test_mypy_understands_a_users_file(installed: Installed, tmp_path: Path) -> None:
    source = Path(__file__).with_name("typed_user.py")
    copy = tmp_path / "user.py"
    copy.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")

    options = ("--strict", "--cache-dir", tmp_path / "cache", "--config-file=")
    python = installed.root / "bin" / "python"
    said = run(sys.executable, "-m", "mypy", *options, "--python-executable", python, copy, cwd=tmp_path)

    assert said.startswith("Success")


def test_the_wheel_holds_polku_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names} == {"polku", f"polku-{polku.__version__}.dist-info"}
    for wanted in ("py.typed", "actors/__init__.py", "v1/plugin_pb2.pyi", "v1/plugin_pb2_grpc.pyi"):
        assert f"polku/{wanted}" in names
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]


TEMPLATES = "polku/plugin/templates/"
PROJECT = "polku/cli/templates/project/"


def test_the_wheel_holds_every_source_file(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("polku/")}
    actors = {f"polku/{path.relative_to(ROOT)}" for path in (ROOT / "actors").rglob("*.py")}
    sources = {str(path.relative_to(ROOT)) for kind in ("*.py*", "*.html") for path in (ROOT / "polku").rglob(kind)}
    wanted = {name for name in actors | sources if "__pycache__" not in name}

    assert {name for name in packed if not name.startswith((TEMPLATES, PROJECT))} - {"polku/py.typed"} == {
        name for name in wanted if not name.startswith((TEMPLATES, PROJECT))
    } - {"polku/py.typed"}


def test_the_wheel_holds_the_templates_of_polku_plugin_new(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(TEMPLATES)}
    for wanted in ("python/README.md", "python/emitter/test_plugin.py", "go/go.sum", "go/polkupb/plugin.pb.go"):
        assert TEMPLATES + wanted in packed
    assert all(
        name.endswith((".py", ".go", ".mod", ".sum", ".sh", ".md", ".js", ".json", ".rs", ".toml")) for name in packed
    )


def test_the_wheel_holds_the_templates_of_polku_init(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(PROJECT)}

    assert packed == {f"{PROJECT}{path.name}" for path in (ROOT / PROJECT).iterdir() if path.is_file()}
    assert f"{PROJECT}Containerfile" in packed


def test_every_directory_of_the_wheel_is_a_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    directories = {str(Path(n).parent) for n in names if n.endswith(".py") and not n.startswith((TEMPLATES, PROJECT))}

    assert {d for d in directories if f"{d}/__init__.py" not in names} == set()


def test_the_wheel_from_the_sdist_is_the_wheel_from_the_checkout(archives: Path, wheel: Path) -> None:
    direct = zipfile.ZipFile(next((archives / "tree").glob("*.whl")))
    through_sdist = zipfile.ZipFile(wheel)

    assert {i.filename: i.CRC for i in direct.infolist()} == {i.filename: i.CRC for i in through_sdist.infolist()}


def test_the_sdist_holds_the_wire_contract_and_no_links(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {member.name.split("/", 1)[1]: member for member in archive.getmembers()}

    assert all(member.isfile() for member in members.values())
    for wanted in ("proto/polku/v1/gateway.proto", "LICENSE", "README.md", "CHANGELOG.md", "polku/actors/__init__.py"):
        assert wanted in members
    assert {name.split("/")[0] for name in members} <= {
        *("polku", "proto", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"),
        *("PKG-INFO", ".gitignore"),
    }
