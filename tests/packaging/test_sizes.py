"""A file is one concept and a class holds one idea: both stay small, or the reason stands here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.packaging.conftest import ROOT

LINES = 400
ATTRIBUTES = 16
CORE = ("batch", "link", "stage", "buffer", "gateway")

LONG = {
    "polku/hub.py": "the manual of what users call: two thirds are docstrings",
}
LARGE = {
    "buffer/durable.py:DurableLog": "what the event loop knows of a journal; thread, session and cache are elsewhere",
    "gateway/grpc/protocol.py:GrpcConnection": "one of ten thousand: an object less, and a look-up less for each call",
}


def _files() -> Iterator[Path]:
    for folder in ("polku", "actors"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name and "templates" not in path.parts:
                yield path


def _attributes(kind: ast.ClassDef) -> set[str]:
    """Return the attributes that methods of a class set on its objects."""
    return {
        node.attr
        for node in ast.walk(kind)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_no_file_is_long_without_a_reason() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n") for path in _files()}
    assert {name: count for name, count in lines.items() if count > LINES and name not in LONG} == {}
    assert {name for name in LONG if lines.get(name, 0) <= LINES} == set(), "these need no reason any more"


def test_no_class_of_the_core_has_many_attributes_without_a_reason() -> None:
    sizes = {
        f"{path.relative_to(ROOT / 'polku')}:{node.name}": len(_attributes(node))
        for path in _files()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and path.is_relative_to(ROOT / "polku") and path.parts[-2] != "polku"
        if path.relative_to(ROOT / "polku").parts[0] in CORE
    }
    assert len(sizes) > 100
    assert {name: count for name, count in sizes.items() if count > ATTRIBUTES and name not in LARGE} == {}
    assert {name for name in LARGE if sizes.get(name, 0) <= ATTRIBUTES} == set(), "these need no reason any more"


def test_attributes_are_counted_wherever_a_method_sets_them() -> None:
    text = (
        "class A:\n    def f(self):\n        self.a = self.b, self.c = 1, 2\n        with x as self.d: self.e.f = 1\n"
    )
    (kind,) = ast.parse(text).body
    assert isinstance(kind, ast.ClassDef)
    assert _attributes(kind) == {"a", "b", "c", "d"}
