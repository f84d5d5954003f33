"""A file is run as it is, also where it was changed within the second in which it was written."""

from __future__ import annotations

import importlib
import os
import py_compile
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku.cli.load import load_hub

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
    assert load_hub(str(folder / "pipeline.py"), by_value=False).plan("inline").name == "two-two-main2"


def test_code_that_was_compiled_later_is_kept(folder: Path) -> None:
    now = float(int(time.time()) - 100)
    source = folder / "helper.py"
    os.utime(source, (now, now))
    compiled = Path(str(py_compile.compile(str(source), doraise=True)))
    before = compiled.stat().st_ino
    load_hub(str(folder / "pipeline.py"), by_value=False)
    assert compiled.stat().st_ino == before
