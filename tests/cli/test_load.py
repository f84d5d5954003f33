"""A file is run as it is, also where it was changed within the second in which it was written."""

from __future__ import annotations

import importlib
import os
import py_compile
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku.cli.load import load_hub
from tests.support.server import environment

PIPELINE = """
from polku import Hub
from helper import NAME
from package.inner import ALSO

hub = Hub(name=f"{NAME}-{ALSO}-main1").emitter(lambda batch: None, name="out")
"""
FILES = {"pipeline.py": PIPELINE, "helper.py": "NAME = 'one'\n", "package/inner.py": "ALSO = 'one'\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in ("helper", "package", "package.inner"):
        sys.modules.pop(name, None)


def compiled_long_ago(source: Path, now: float) -> None:
    """Compile a file, whose content is of some time ago."""
    os.utime(source, (now, now))
    os.utime(str(py_compile.compile(str(source), doraise=True)), (now, now))


def test_a_file_that_was_changed_within_a_second_is_read_anew(folder: Path) -> None:
    now = float(int(time.time()) - 100)
    for name, text in FILES.items():
        compiled_long_ago(folder / name, now)
        (folder / name).write_text(text.replace("one", "two").replace("main1", "main2"))
        os.utime(folder / name, (now + 0.9, now + 0.9))
    importlib.invalidate_caches()
    assert load_hub(str(folder / "pipeline.py"), runtime="inline").plan("inline").name == "two-two-main2"


def test_code_that_was_compiled_later_is_kept(folder: Path) -> None:
    now = float(int(time.time()) - 100)
    source = folder / "helper.py"
    os.utime(source, (now, now))
    compiled = Path(str(py_compile.compile(str(source), doraise=True)))
    before = compiled.stat().st_ino
    load_hub(str(folder / "pipeline.py"), runtime="inline")
    assert compiled.stat().st_ino == before


_LOADED = """
import sys
from polku.cli.load import load_hub
load_hub(sys.argv[1])
print(sorted(name for name in sys.modules if name == "ray"))
if "ray" in sys.modules:
    from ray import cloudpickle
    print(sorted(cloudpickle.list_registry_pickle_by_value()))
"""


@pytest.mark.parametrize(
    ("runtime", "said"), [("inline", "[]\n"), ("ray", "['ray']\n['polku_file_pipeline']\n")], ids=["inline", "ray"]
)
def test_functions_are_sent_by_value_where_the_hub_itself_says_ray_and_ray_is_not_loaded_where_it_does_not(
    tmp_path: Path, runtime: str, said: str
) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(f"from polku import Hub\nhub = Hub(runtime={runtime!r})\n")
    other = {"inline": "ray", "ray": "inline"}[runtime]
    command = [sys.executable, "-c", _LOADED, str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**environment(), "POLKU_RUNTIME": other}
    )
    assert (done.stdout, done.returncode) == (said, 0), done.stderr
