"""Where Ray is not installed, what needs it says so, and what does not works."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from polku import Hub, PlanError
from tests.support.server import polku_here


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


def test_a_file_that_chooses_the_inline_runtime_works(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text("from polku import Hub, StdoutEmitter\nhub = Hub(runtime='inline').emitter(StdoutEmitter())\n")

    assert polku_here("validate", str(file)).returncode == 0


def test_ray_is_named_with_what_installs_it(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text("from polku import Hub, StdoutEmitter\nhub = Hub().emitter(StdoutEmitter())\n")
    done = polku_here("run", str(file), "--admin-addr", "off")

    assert done.returncode == 2
    assert "runtime='ray': needs Ray, which is not installed: pip install 'ray[default]', or run in one" in done.stderr
    assert polku_here("validate", str(file), "--runtime", "inline").returncode == 0
    with pytest.raises(PlanError, match="needs Ray"):
        Hub().emitter(print).plan("ray")
