"""The conformance kit tells plugins that keep the contract from those that break it, in each way that it looks for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from polku.testing import Grade, check_plugin, plugin_process
from tests.support.server import polku

HERE = Path(__file__).parent
SAMPLE = b"info " + b"hello " * 100 + b"\n"  # ten megabytes of it are few events, which a plugin has soon made
PLUGINS = HERE.parent.parent / "examples" / "plugins" / "python"


@pytest.mark.parametrize(
    ("way", "check", "grade", "text"),
    [
        ("type", "Info.type", "fails", "PLUGIN_TYPE_INGESTOR"),
        ("sources", "Info.sources", "fails", "name the sources"),
        ("sick", "Health", "fails", "healthy=true"),
        ("raises", "garbage", "fails", "never raise"),
        ("empty", "empty input", "fails", "nothing there"),
        ("offset", "garbage", "fails", "offset 4097 of 4096"),
        ("exits", "10 MB", "fails", "UNAVAILABLE"),
        ("alone", "64 calls at once", "fails", "concurrently"),
        ("milliseconds", "event times", "fails", "nanoseconds"),
        ("twice", "event ids", "fails", "id of its own"),
        ("ids", "same input again", "note", "make ids from the content"),
        ("nothing", "services", "fails", "neither"),
        ("emit-count", "good input", "fails", "success_count=0, 0 failed, of 3"),
        ("emit-strange", "good input", "fails", "one of them unknown"),
        ("emit-unexplained", "good input", "note", "without an EmitError"),
        ("emit-shutdown", "Shutdown", "fails", "UNIMPLEMENTED"),
    ],
)
def test_each_way_to_break_the_contract_is_found(way: str, check: str, grade: str, text: str) -> None:
    with plugin_process(sys.executable, str(HERE / "bad_plugins.py"), way, cwd=HERE.parent.parent) as plugin:
        report = check_plugin(plugin.address, timeout=3)
    found = {finding.check: finding for finding in report.findings}
    assert found[check].grade == grade
    assert text in f"{found[check].seen} {found[check].fix}"
    assert report.ok is (grade != "fails")


@pytest.mark.parametrize("name", ["ingestor/plugin.py", "emitter/plugin.py", "raw/ingestor.py", "raw/emitter.py"])
def test_the_examples_keep_it(name: str, tmp_path: Path) -> None:
    with plugin_process(sys.executable, str(PLUGINS / name), cwd=tmp_path) as plugin:
        report = check_plugin(plugin.address, sample=SAMPLE)
    assert report.ok, report
    notes = {finding.check for finding in report.findings if finding.grade is Grade.NOTE}
    # How long ten megabytes take depends on the machine.
    assert notes - {"10 MB"} == ({"same input again"} if name == "raw/ingestor.py" else set())


def test_the_command_prints_the_table_and_exits_by_it(tmp_path: Path) -> None:
    with plugin_process(sys.executable, str(PLUGINS / "ingestor/plugin.py"), cwd=tmp_path) as plugin:
        sample = tmp_path / "sample"
        sample.write_bytes(SAMPLE)
        good = polku("plugin", "check", plugin.address, "--sample", str(sample))
        assert good.returncode == 0, good.stdout + good.stderr
        assert "holds  64 calls at once" in good.stdout
    bad = polku("plugin", "check", plugin.address)
    assert bad.returncode == 1
    assert "fails  connect" in bad.stdout
    assert "is it running" in bad.stdout
    wrong = polku("plugin", "check", "nonsense")
    assert wrong.returncode != 0
    assert "has no port" in wrong.stderr


@pytest.mark.parametrize("kind", ["ingestor", pytest.param("emitter", marks=pytest.mark.slow)])
def test_a_new_python_project_passes_its_own_test(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "Weather Station"
    made = polku("plugin", "new", kind, str(folder))
    assert made.returncode == 0, made.stderr
    assert {file.name for file in folder.iterdir()} == {"plugin.py", "test_plugin.py", "README.md"}
    import subprocess

    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, timeout=240)
    assert done.returncode == 0
    again = polku("plugin", "new", kind, str(folder))
    assert "is not empty" in again.stderr
