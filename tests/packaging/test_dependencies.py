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


def test_every_import_is_declared() -> None:
    undeclared = {
        source: name
        for source, names in _imports().items()
        for name in names
        if not (name in sys.stdlib_module_names or name == "polku" or _providers(name) & DECLARED)
    }
    assert undeclared == {}


def _providers(name: str) -> set[str]:
    return {_normal(provider) for provider in _distributions().get(name, [name])}


def test_every_declared_dependency_is_imported() -> None:
    installed = {_normal(one) for providers in _distributions().values() for one in providers}
    names = {name for names in _imports().values() for name in names}
    imported = {_normal(one) for name in names for one in _distributions().get(name, [])}

    assert DECLARED & installed - imported == set()


@functools.cache
def _imports() -> Mapping[str, frozenset[str]]:
    """Return the top-level names that each file imports."""
    trees = {str(source.relative_to(ROOT)): ast.parse(source.read_text("utf-8")) for source in SOURCES}
    return {source: frozenset(_imported(tree)) for source, tree in trees.items()}


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the top-level names that are imported anywhere in the file, but for those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module is not None and child.level == 0:
            yield child.module.split(".")[0]
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _imported(child)
