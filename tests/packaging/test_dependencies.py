"""What polku imports is what it declares."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {name: wanted for name, wanted in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs")}
SOURCES = sorted(
    path
    for folder in ("polku", "actors")
    for path in (ROOT / folder).rglob("*.py")
    if "cli/templates" not in str(path)  # a project of its own
)


def _normal(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


DECLARED = {_normal(entry) for entry in itertools.chain(PROJECT["dependencies"], *EXTRAS.values())}


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Return the distributions by the packages that they bring; they are many."""
    return packages_distributions()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_is_declared(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))

    for name in _imported(tree):
        if name in sys.stdlib_module_names or name == "polku":
            continue
        providers = {_normal(provider) for provider in _distributions().get(name, [name])}
        assert providers & DECLARED, f"{name} is imported and not declared"


def test_every_declared_dependency_is_imported() -> None:
    installed = {_normal(one) for providers in _distributions().values() for one in providers}
    names = {name for source in SOURCES for name in _imported(ast.parse(source.read_text(encoding="utf-8")))}
    imported = {_normal(one) for name in names for one in _distributions().get(name, [])}

    assert DECLARED & installed - imported == set()


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the top-level names that are imported anywhere in the file, but for those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module is not None and child.level == 0:
            yield child.module.split(".")[0]
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _imported(child)
