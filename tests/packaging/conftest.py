"""Build the archives once and install each into an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Installed:
    """An environment with polku installed into it, and the running environment's libraries behind it."""

    how: str
    root: Path

    @property
    def site(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.root / "lib" / version / "site-packages"

    def run(self, command: str, *arguments: str | Path) -> str:
        """Run a command of the environment from a directory where polku's sources are not, and return its output."""
        return run(self.root / "bin" / command, *arguments, cwd=self.root)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, the wheel made from it, and in `tree/` the wheel made from the checkout."""
    out = tmp_path_factory.mktemp("archives")
    build = (sys.executable, "-m", "build", "--no-isolation", ROOT, "--outdir")
    run(*build, out, cwd=out)
    run(*build, out / "tree", "--wheel", cwd=out)
    return out


@pytest.fixture(scope="session")
def wheel(archives: Path) -> Path:
    return next(archives.glob("*.whl"))


@pytest.fixture(scope="session")
def sdist(archives: Path) -> Path:
    return next(archives.glob("*.tar.gz"))


@pytest.fixture(scope="session", params=["wheel", pytest.param("sdist", marks=pytest.mark.slow), "editable"])
def installed(
    request: pytest.FixtureRequest, wheel: Path, sdist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """Polku installed in each of the ways in which people install it."""
    ways: dict[str, list[str | Path]] = {"wheel": [wheel], "sdist": [sdist], "editable": ["--editable", ROOT]}
    environment = Installed(request.param, tmp_path_factory.mktemp(request.param))
    venv.create(environment.root, symlinks=True)
    (environment.site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", environment.root / "bin" / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", *ways[request.param], cwd=environment.root)
    return environment
