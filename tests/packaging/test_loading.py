"""What `import polku` loads: nothing but what is asked for, in whatever order."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polku
import polku.emit
import polku.ingest
import polku.middleware
import polku.testing
from tests.packaging.conftest import ROOT

PACKAGES = [polku, polku.emit, polku.ingest, polku.middleware, polku.testing]
# Everything that users, plugins, actors and the command line begin with: each in a process that has nothing else.
FIRST = [
    *(
        "polku.hub",
        "polku.external.connection",
        "polku.kafka.emitter",
        "polku.kafka.source",
        "polku.redis.source",
        "polku.nats.source",
        "polku.nats.emitter",
        "polku.postgres.emitter",
        "polku.emit",
    ),
    *("polku.ingest", "polku.plugin", "polku.cli.app", "polku.testing.trial"),
]
_ALONE = """
import os, sys
import msgspec, google.protobuf.internal.builder  # what all of them need; the rest is a fork's own
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except BaseException as error:
            print(name, type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(len(failed))
"""


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_exported_name_is_there(package: object) -> None:
    names: list[str] = vars(package)["__all__"]
    assert [name for name in names if getattr(package, name, None) is None] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_what_is_loaded(package: object) -> None:
    """The imports that type checkers read name the modules that the names are loaded from."""
    source = Path(str(vars(package)["__file__"])).read_text("utf-8")
    named = {
        alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name in set(vars(package)["__all__"]) - {"__version__"}:
        module = str(named[name])
        assert getattr(package, name) is getattr(sys.modules[module], name), f"{name} is not that of {module}"


def test_a_name_that_there_is_not_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'polku' has no attribute 'Hup'"):
        polku.Hup  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Hup'"):
        exec("from polku import Hup")


def test_submodules_are_found_by_name() -> None:
    done = _python("import polku; print(polku.errors.PlanError.__name__, polku.Hub.__name__)")
    assert done == "PlanError Hub"


def test_polku_alone_loads_next_to_nothing() -> None:
    done = _python("import sys, polku; print(sorted(name for name in sys.modules if name.startswith(('polku', 'g'))))")
    loaded = set(ast.literal_eval(done))
    assert {name for name in loaded if name.startswith("polku")} == {"polku", "polku.lazy", "polku.version"}
    assert not {"grpc", "google.protobuf"} & loaded


_COLLECTIONS = """
import gc, sys
from polku.cli import main

before = sum(generation["collections"] for generation in gc.get_stats())
sys.argv = ["polku", "--version"]
try:
    main()
finally:
    print(sum(generation["collections"] for generation in gc.get_stats()) - before, "msgspec" in sys.modules)
"""


def test_a_command_loads_without_looking_for_cycles_and_without_what_it_does_not_need() -> None:
    assert _python(_COLLECTIONS).splitlines()[1] == "0 False"


_LATER = {
    *("aiohttp", "ray", "grpc", "sqlite3", "email", "difflib", "ctypes", "sysconfig", "shutil", "urllib.parse"),
    "google.protobuf.descriptor_pb2",
    *("polku.buffer.journal_reader", "polku.external", "polku.gateway.otlp.service", "polku.security.client_tls"),
    *("polku.otlp.reading", "polku.otlp.records", "polku.otlp.json", "polku.otlp.wire", "polku.runtime.flow"),
    *("polku.ingest.json_reading", "polku.ingest.json_plain", "polku.ingest.cloudevents_reading", "polku.emit.grpc"),
    *("grpc_health.v1.health_pb2", "grpc_reflection", "polku.monitoring.live", "polku.monitoring.statistics"),
}
MODULES, DATACLASSES, NAMED_TUPLES = 256, 26, 52  # of POLKU, in a gateway that is ready (once 280, 43, 127)
_READY = """
import sys
from dataclasses import is_dataclass
from polku import Hub

hub = Hub(runtime="inline").emitter(print)
with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0", admin_addr="127.0.0.1:0"):
    loaded = dict(sys.modules)
classes = {one for module in loaded.values() for one in vars(module).values() if isinstance(one, type)}
ours = [one for one in classes if str(one.__module__).startswith("polku")]
dataclasses = [one.__name__ for one in ours if is_dataclass(one)]
named_tuples = [one.__name__ for one in ours if issubclass(one, tuple) and hasattr(one, "_fields")]
print((sorted(loaded), sorted(dataclasses), sorted(named_tuples)))
"""


@pytest.fixture(scope="module")
def ready() -> tuple[set[str], list[str], list[str]]:
    """The modules that a gateway has when it is ready, and POLKU's dataclasses and named tuples in them."""
    modules, dataclasses, named_tuples = ast.literal_eval(_python(_READY))
    return set(modules), dataclasses, named_tuples


def test_a_gateway_is_ready_without_what_only_some_requests_and_pipelines_need(
    ready: tuple[set[str], list[str], list[str]],
) -> None:
    loaded, _, _ = ready
    assert "polku.gateway.http.plain" in loaded
    assert not loaded & _LATER
    assert len([name for name in loaded if name.startswith("polku")]) <= MODULES


def test_few_records_of_a_start_are_classes_that_are_slow_to_make(
    ready: tuple[set[str], list[str], list[str]],
) -> None:
    """A dataclass takes 0.4 to 0.8 ms, a named tuple 0.15; a `msgspec.Struct` 0.01."""
    _, dataclasses, named_tuples = ready
    assert len(dataclasses) <= DATACLASSES, dataclasses
    assert len(named_tuples) <= NAMED_TUPLES, named_tuples


@pytest.mark.parametrize(
    "names",
    [FIRST, pytest.param(None, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_modules_can_be_imported_in_any_order(names: list[str] | None) -> None:
    if names is None:
        paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "polku").rglob("*.py")]
        names = [".".join(path.parts) for path in paths if "templates" not in path.parts and path.name != "__main__"]
        names = [name.removesuffix(".__init__") for name in names]
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, *names], capture_output=True, text=True, env=os.environ, timeout=240
    )
    assert done.returncode == 0, done.stdout


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    return done.stdout.strip()
