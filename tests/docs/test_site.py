"""The site of the documents builds without a warning, and its reference has what the code has."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import polku
import polku.plugin
import polku.testing
from polku.cli.settings import describe_settings
from tests.docs.pages import PAGES, README, ROOT

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="the extra `docs` is not installed",
)

# The trees of all pages are kept until the end: to look for garbage among them takes a quarter of the time.
SPHINX = "import gc, sys; gc.disable(); from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = ("serve", "run", "send", "validate", "graph", "bench", "journal verify", "dlq replay", "plugin check")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", SPHINX, "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs") for page in PAGES if page != README]

    assert [page for page in pages if not (site / page.with_suffix(".html")).exists()] == []


@pytest.mark.parametrize(("name", "module"), [("api", polku), ("plugin", polku.plugin), ("testing", polku.testing)])
def test_the_reference_has_every_public_name(site: Path, name: str, module: object) -> None:
    text = (site / "reference" / f"{name}.html").read_text("utf-8")
    names = [public for public in vars(module)["__all__"] if not public.startswith("__")]

    assert [public for public in names if f">{public}</span>" not in text] == []


def test_the_reference_has_every_command_and_setting(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    settings = (site / "reference" / "settings.html").read_text("utf-8")

    assert [command for command in COMMANDS if f"<h2>polku {command}" not in commands] == []
    assert "--grpc-addr" in commands
    assert [one.variable for one in describe_settings() if one.variable not in settings] == []


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert 'src="http' not in text
        assert '<link rel="stylesheet" href="http' not in text
