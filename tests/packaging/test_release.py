"""What `make release` builds has no fault, what has one is found, and the changelog is cut by a command."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import polku
from tests.packaging.conftest import ROOT


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("polku_release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["polku_release"] = module
    spec.loader.exec_module(module)
    return module


release = _load()
TODAY = datetime.date(2030, 1, 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "dist"
    assert list(release.build(out)) == []
    return out


def test_two_wheels_with_the_same_files_differ_in_what_they_need(built: Path) -> None:
    needs = {}
    for path in built.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if entry.endswith("/METADATA"))
            lines = archive.read(name).decode().splitlines()
        wanted = {line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist:")}
        needs[path.name.split("-")[0]] = {line for line in wanted if "extra ==" not in line}

    assert {line.split(">")[0] for line in needs["polku"] - needs["polku_core"]} == {"ray[default]", "rich"}
    assert needs["polku_core"] < needs["polku"]
    digested = {line.split()[1] for line in (built / "SHA256SUMS").read_text().splitlines()}
    assert digested == {path.name for path in built.iterdir()} - {"SHA256SUMS"}


def test_an_image_is_built_without_a_checkout_and_without_its_secrets(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "checkout", tmp_path / "dist"
    shutil.copytree(ROOT / "examples" / "deploy", root / "examples" / "deploy")
    (root / "examples" / "deploy" / "admin-token").write_text("secret")
    (root / "polku").mkdir()
    for name in ("cluster.yaml", "polku/version.py"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(built, out)
    monkeypatch.setattr(release, "ROOT", root)
    with tarfile.open(release.write_context(out)) as archive:
        archive.extractall(tmp_path / "context", filter="data")
    context = tmp_path / "context"

    text = (context / "examples/deploy/Containerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.M)
    assert copied
    assert [name for name in copied if not (context / name).exists()] == []
    for name in ("polku", "polku_core"):
        assert len(list((context / "dist").glob(f"{name}-*.whl"))) == 1
        assert (context / "dist" / f"requirements-{name}.txt").exists()
    assert (context / "examples/deploy/helm/polku/templates/_helpers.tpl").exists()
    assert (context / "cluster.yaml").exists()
    assert not list(context.rglob("admin-token"))


def test_what_a_wheel_needs_is_listed_with_hashes(built: Path) -> None:
    listed = {}
    for path in built.glob("requirements-*.txt"):
        text = path.read_text()
        names = re.findall(r"^([\w.-]+)==", text, re.M)
        assert len(names) == len(re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.M))
        listed[path.stem.removeprefix("requirements-")] = set(names)

    assert {"ray", "rich", "grpcio", "aiohttp", "uvloop", "multidict"} <= listed["polku"]
    assert {"grpcio", "aiohttp", "uvloop", "multidict"} <= listed["polku_core"]
    assert not {"ray", "rich", "jsonschema", "pyarrow"} & listed["polku_core"]


def test_the_bill_of_materials_has_what_is_listed(built: Path) -> None:
    if not (ROOT / ".venv-bom").exists():
        pytest.skip("cyclonedx-bom is not installed: make release")
    for name in ("polku", "polku_core"):
        bill = json.loads((built / f"{name}.cdx.json").read_text())
        listed = set(re.findall(r"^([\w.-]+)==", (built / f"requirements-{name}.txt").read_text(), re.M))

        assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "polku")
        assert {component["name"] for component in bill["components"]} == listed
        hashed = [one for one in bill["components"] for ref in one["externalReferences"] if ref.get("hashes")]
        assert hashed


def test_a_context_that_lacks_something_or_has_a_secret_is_found(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "dist"
    shutil.copytree(built, out)
    secret = tmp_path / "admin-token"
    secret.touch()
    with tarfile.open(next(out.glob("*.tgz")), "w:gz") as archive:
        archive.add(secret, "examples/deploy/admin-token")

    faults = "\n".join(release.check(out))
    assert "image context: has no dist/" in faults
    assert "image context: has examples/deploy/admin-token" in faults


def test_the_hashes_are_of_the_versions_that_are_tested() -> None:
    def versions(name: str) -> set[tuple[str, str]]:
        found = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / ".ci" / name).read_text(), re.M)
        return {(re.sub(r"[-_.]+", "-", one).lower(), version) for one, version in found}

    unlike = versions("hashes.txt") - versions("constraints.txt")
    assert {name for name, _ in unlike} <= {"colorama"}  # on Windows alone


def _with(path: Path, name: str, text: str | None) -> None:
    """Replace a file in a wheel, or take it out."""
    with zipfile.ZipFile(path) as archive:
        files = {info: archive.read(info) for info in archive.namelist()}
    found = next(info for info in files if info.endswith(name))
    if text is None:
        del files[found]
    else:
        files[found] = text.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in files.items():
            archive.writestr(info, content)


@pytest.mark.parametrize(
    ("wheel", "name", "text", "fault"),
    [
        ("polku", "polku/hub.py", "", "the two wheels do not have the same files"),
        ("polku", "polku/py.typed", None, "has no polku/py.typed"),
        ("polku_core", "polku/hub.py", "", "has another digest of polku/hub.py"),
        ("polku", "/METADATA", "Name: polku\nVersion: 0.0.1\n\n# POLKU", "Version is '0.0.1'"),
        (
            "polku_core",
            "/METADATA",
            "Requires-Dist: ray[default]>=2\n\n",
            "Ray is a dependency of polku",
        ),
        ("polku", "/entry_points.txt", "", "the command is not polku"),
    ],
)
def test_a_fault_is_found(built: Path, tmp_path: Path, wheel: str, name: str, text: str | None, fault: str) -> None:
    out = tmp_path / "dist"
    shutil.copytree(built, out)
    _with(next(out.glob(f"{wheel}-*.whl")), name, text)

    assert fault in "\n".join(release.check(out))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "polku").mkdir()
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    shutil.copy(ROOT / "polku" / "version.py", tmp_path / "polku")
    return tmp_path


def test_the_changelog_is_cut(checkout: Path) -> None:
    before = (checkout / "CHANGELOG.md").read_text()

    release.cut(checkout, "9.8.7", TODAY)

    after = (checkout / "CHANGELOG.md").read_text()
    assert after == before.replace("## [Unreleased]\n", "## [Unreleased]\n\n## [9.8.7] - 2030-01-02\n", 1)
    assert release._version(checkout) == "9.8.7"
    assert release._section(checkout / "CHANGELOG.md", "Unreleased").strip() == ""
    assert "### Added" in release._section(checkout / "CHANGELOG.md", "9.8.7")


@pytest.mark.parametrize(
    ("versions", "message"),
    [(["2"], "write a version"), (["9.8.7", "9.8.8"], "has nothing under"), (["", ""], "write a version")],
)
def test_a_changelog_that_cannot_be_cut_stays(checkout: Path, versions: list[str], message: str) -> None:
    for version in versions[:-1]:
        if version:
            release.cut(checkout, version, TODAY)
    before = (checkout / "CHANGELOG.md").read_text()

    with pytest.raises(SystemExit, match=message):
        release.cut(checkout, versions[-1], TODAY)
    assert (checkout / "CHANGELOG.md").read_text() == before


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_what_is_released_works_on_every_python(built: Path) -> None:
    assert list(release.install(built)) == []


def test_the_version_of_the_package_is_that_of_the_file() -> None:
    assert release._version(ROOT) == polku.__version__
