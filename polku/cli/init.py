"""`polku init`: a project with a pipeline, its test, and what runs it."""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

from polku.cli.command import Argument, Option
from polku.cli.settings import RUNTIMES
from polku.errors import SettingError
from polku.version import __version__

_TEMPLATES = Path(__file__).parent / "templates" / "project"
_DISTRIBUTIONS = ("polku", "polku-core")
_NAMES = {"gitignore": ".gitignore", "dockerignore": ".dockerignore"}  # others stay as they are


def init(
    folder: Annotated[str, Argument(metavar="NAME", help="The folder to write; must be empty or not exist.")],
    runtime: Annotated[str, Option(help="inline (one process) or ray.")] = "inline",
) -> None:
    """Write a project: a pipeline and its test, a Makefile, a container file, Compose, a unit for systemd.

    `make test` and `make run` in it work at once; the first of them sets up an environment with this polku.
    """
    if runtime not in RUNTIMES:
        raise SettingError("--runtime", runtime, f"choose one of {', '.join(RUNTIMES)}")
    try:
        files = write(Path(folder), runtime)
    except FileExistsError:
        raise SettingError("NAME", folder, "is not empty; name a folder that is, or a new one") from None
    except OSError as error:
        raise SettingError("NAME", folder, f"cannot be written: {error.strerror}") from None
    for file in files:
        print(Path(folder) / file)
    print(f"Next: cd {folder}, make test, make run; README.md has the rest.")


def write(folder: Path, runtime: str) -> list[Path]:
    """Write the project and return its files; raises `FileExistsError` where the folder is not empty."""
    name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-") or "gateway"
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(folder)
    texts = {_named(path.name, name): path.read_text("utf-8") for path in _TEMPLATES.iterdir() if path.is_file()}
    texts["requirements.txt"] = f"{requirement()}\n"
    texts["requirements-test.txt"] = "pytest>=8.2\n"
    for file, text in texts.items():
        filled = text.replace("{{name}}", name).replace("{{runtime}}", runtime)
        (folder / file).write_text(filled, encoding="utf-8")
    return sorted(Path(file) for file in texts)


def requirement() -> str:
    """Return what pip installs this polku by: the checkout or wheel that it came from, else its version."""
    for name in _DISTRIBUTIONS:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        url = _origin(found)
        return f"{name} @ {url}" if url else f"{name}=={found.version}"
    return f"polku=={__version__}"


def _origin(found: Distribution) -> str:
    """Return the URL that a distribution was installed from (PEP 610); empty for a package index."""
    text = found.read_text("direct_url.json")
    return str(json.loads(text)["url"]) if text else ""


def _named(file: str, name: str) -> str:
    return f"{name}.service" if file == "polku.service" else _NAMES.get(file, file)
