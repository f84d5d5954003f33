"""The rules of the house: which part of POLKU may import which, wherever in a file the import stands."""

from __future__ import annotations

import ast
import functools
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

BASE = frozenset({"aio", "errors", "codes", "contracts", "clock", "checks", "log", "text", "usercode"})
BASE |= frozenset({"busy", "histogram", "lazy", "recent_errors", "tap"})
WIRE = frozenset({"event", "v1"})
# What stands left may import, of POLKU's own parts, nothing but what stands right.
ONLY = {
    "errors": frozenset({"codes"}),
    "codes": frozenset[str](),
    "busy": frozenset[str](),
    "histogram": frozenset[str](),
    "clock": frozenset[str](),
    "checks": frozenset({"errors"}),
    "lazy": frozenset[str](),
    "text": frozenset({"errors", "lazy"}),
    "usercode": frozenset({"errors", "text"}),
    "log": frozenset({"text"}),
    "log_format": frozenset({"text"}),
    "recent_errors": frozenset({"text"}),
    "tap": frozenset({"batch", "errors", "event", "log", "text"}),
    "aio": frozenset({"errors", "log", "text", "usercode"}),
    "contracts": frozenset({"batch", "errors", "event", "histogram", "lazy"}),
    "batch": BASE | WIRE,
    "link": BASE | {"batch"},
    "stage": BASE | WIRE | {"batch", "dead_letters", "hooks", "link", "tracing"},
    "middleware": BASE | WIRE | {"batch", "events", "ids", "disk", "lazy"},
    "security": frozenset({"checks", "errors", "codes", "lazy", "log"}),
    "http2": frozenset({"text"}),
    "host": frozenset[str](),
    "ids": frozenset[str](),
    "scaling": frozenset({"checks", "errors", "monitoring"}),
    "rpc": frozenset({"aio", "host", "http2", "text", "version"}),
}
# What stands left may not import what stands right.
NEVER = {
    "gateway": {"emit", "stage", "buffer", "runtime", "actors", "hub", "middleware", "monitoring"},
    "dead_letters": {"buffer", "gateway", "emit", "link", "runtime", "actors"},
    "buffer": {"gateway", "emit", "middleware", "stage", "runtime", "actors", "plan", "hub"},
    "emit": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "ingest": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "kafka": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "nats": {"gateway", "link", "stage", "buffer", "runtime", "actors", "redis"},
    "postgres": {"gateway", "link", "stage", "buffer", "runtime", "actors", "redis", "nats"},
    "claims": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "ray_serve": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "redis": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "files": {"gateway", "link", "stage", "buffer", "runtime", "actors", "emit", "kafka"},
    "pull": {"gateway", "link", "stage", "buffer", "runtime", "actors", "emit", "kafka", "files"},
    "otlp": {"gateway", "link", "stage", "buffer", "runtime", "actors"},
    "plugin": {"gateway", "link", "stage", "buffer", "actors", "hub"},
    "runtime": {"actors", "cli"},
    "change": {"actors", "cli", "runtime", "stage", "gateway", "link", "monitoring", "hub", "pipeline"},
    "plan": {"actors", "runtime", "cli", "monitoring"},
    "monitoring": {"actors", "cli", "hub", "pipeline"},
    "hub": {"actors", "cli"},
}
FOREIGN = {
    part: {"ray", "grpc", "aiohttp"}
    for part in (
        "batch",
        "link",
        "stage",
        "middleware",
        "buffer",
        "dead_letters",
        "aio",
        "http2",
        "rpc",
        "security",
        "scaling",
    )
}


def _modules() -> Iterator[tuple[str, Path]]:
    for folder, _, files in os.walk(ROOT / "polku", followlinks=True):
        for name in files:
            path = Path(folder, name)
            parts = path.relative_to(ROOT / "polku").with_suffix("").parts
            if path.suffix == ".py" and "templates" not in parts and parts != ("__init__",):
                yield parts[0], path


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each module that a file imports, and the line; what only type checkers see counts too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@functools.cache
def edges() -> dict[str, dict[str, list[str]]]:
    """Return what each part imports, and where."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for part, path in _modules():
        for name, line in _imports(path):
            first, *rest = name.split(".")
            target = rest[0] if first == "polku" and rest else first
            if target != part:
                found[part][f"polku.{target}" if first == "polku" else first].append(f"{path.relative_to(ROOT)}:{line}")
    return found


@pytest.mark.parametrize("part", sorted(ONLY))
def test_a_part_at_the_bottom_imports_nothing_but_what_it_may(part: str) -> None:
    ours = {name.removeprefix("polku."): places for name, places in edges()[part].items() if name.startswith("polku.")}
    assert {name: places for name, places in ours.items() if name not in ONLY[part]} == {}


@pytest.mark.parametrize("part", sorted(NEVER))
def test_a_part_does_not_import_what_stands_above_or_beside_it(part: str) -> None:
    assert {name: edges()[part][f"polku.{name}"] for name in NEVER[part] if f"polku.{name}" in edges()[part]} == {}


@pytest.mark.parametrize("part", sorted(FOREIGN))
def test_the_core_knows_no_transport(part: str) -> None:
    assert {name: edges()[part][name] for name in FOREIGN[part] if name in edges()[part]} == {}


def test_only_the_pipeline_and_the_command_line_load_actors() -> None:
    assert {part for part, names in edges().items() if "polku.actors" in names} <= {"pipeline", "cli"}


def _loads(path: Path) -> Iterator[str]:
    """Yield each part of POLKU that a file loads as soon as it is imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polku."):
            yield str(node.module).split(".")[1]


def test_no_part_loads_itself_by_way_of_others() -> None:
    loads: dict[str, set[str]] = defaultdict(set)
    for part, path in _modules():
        if "_pb2" not in path.name:
            loads[part] |= set(_loads(path)) - {part}
    assert len(loads) > 50
    left = dict(loads)
    while bottom := {part for part, above in left.items() if not above & left.keys()}:
        left = {part: above for part, above in left.items() if part not in bottom}
    assert left == {}, "these load one another in a circle"


def test_every_part_of_a_rule_is_there() -> None:
    parts = {part for part, _ in _modules()}
    ruled = {*ONLY, *NEVER, *FOREIGN, *(name for names in NEVER.values() for name in names)}
    assert ruled - parts == set()


def folder_imports() -> dict[str, set[str]]:
    """Return which folders of `polku` each folder imports when it is imported."""
    found: dict[str, set[str]] = defaultdict(set)
    for part, path in _modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if path.parent != ROOT / "polku" and isinstance(node, ast.ImportFrom) and node.module is not None:
                first, *rest = node.module.split(".")
                if first == "polku" and rest and (ROOT / "polku" / rest[0]).is_dir() and rest[0] != part:
                    found[part].add(rest[0])
    return found


def test_no_folders_import_one_another_in_a_circle() -> None:
    """Late imports, and those for types alone, may."""
    left = {part: set(targets) for part, targets in folder_imports().items()}
    assert len(left) > 25
    while free := {part for part, targets in left.items() if not targets & left.keys()}:
        left = {part: targets for part, targets in left.items() if part not in free}
    assert left == {}
