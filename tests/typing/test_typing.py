"""Type checkers find the mistakes of users in `wrong.py`, all of them and no others, and none in `right.py`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

HERE = Path(__file__).parent
FILES = [HERE / "right.py", HERE / "wrong.py"]
_LINE = re.compile(r"([\w./\\-]+\.py):(\d+)(?::\d+)?: error: (.*)")
CHECKERS = [name for name in ("pyright", "basedpyright") if shutil.which(name)]


def expected() -> set[tuple[str, int]]:
    return {
        (file.name, number)
        for file in FILES
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if "# error" in line
    }


@pytest.mark.timeout(900)
def test_mypy_finds_nothing_in_the_project() -> None:
    """As `make lint` does; here it takes its time beside other tests."""
    done = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_mypy_finds_the_mistakes() -> None:
    """With the settings and the cache of the project, so that only these files are looked at."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = {(Path(file).name, int(number)): said for file, number, said in _LINE.findall(done.stdout)}
    assert {place: found[place] for place in found.keys() - expected()} == {}
    assert expected() - found.keys() == set(), done.stdout


@pytest.mark.skipif(not CHECKERS, reason="pyright is not installed")
def test_pyright_finds_the_mistakes(tmp_path: Path) -> None:
    done = subprocess.run([CHECKERS[0], "--outputjson", *map(str, FILES)], capture_output=True, text=True, cwd=tmp_path)
    found = {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in json.loads(done.stdout)["generalDiagnostics"]
        if one["severity"] == "error"
    }
    assert {place: found[place] for place in found.keys() - expected()} == {}
    assert expected() - found.keys() == set(), done.stdout
