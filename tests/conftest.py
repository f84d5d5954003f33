"""The environment of all tests: set before ray is imported, and one Ray for those that need it."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import polku.log
from tests.support.loops import name_birthplaces

# A busy machine is slow to draw examples, and slow to try them: neither says anything about the code.
_PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("polku", max_examples=30, **_PATIENT)
settings.register_profile("long", max_examples=200, **_PATIENT)  # of `make slow`
settings.load_profile("polku")
name_birthplaces()

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["RAY_ADDRESS"] = "local"  # programs that tests start must not attach to a Ray that is none of theirs
# Tests start hundreds of programs that import `polku`: where nothing may be cached, each would compile it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup programs that tests start would ignore it
for name in [name for name in os.environ if name.startswith("POLKU_")]:
    del os.environ[name]

# The files that take longest, the longest first: each worker of xdist takes the next file, and none should be left with
# a long one at the end.
LONG = (
    *("typing/test_typing", "docs/test_pages", "cli/test_serve", "ray/test_attachment", "kafka/test_source_faults"),
    *("chaos/test_chaos", "ray/test_node_lost", "cluster/test_cluster", "emit/test_conformance", "ray/test_lanes"),
    *("ray/test_arrangements", "wire/test_generated", "external/test_ingest", "testing/test_check"),
    *("ray/test_deaths", "plugin/test_registration", "examples/test_examples", "docs/test_site", "ray/test_poison"),
    *("ray/test_serve", "behaviour/test_pipeline", "examples/test_plugins", "postgres/test_postgres"),
    *("simulation/test_simulation", "cli/test_bench", "cli/test_reload", "ray/test_changing"),
    *("ray/test_application", "emit/test_kafka", "clients/test_calls", "gateway/native/test_connections"),
    *("packaging/test_packaging", "cli/test_log_format", "simulation/test_journals", "emit/test_s3_pipeline"),
    *("link/test_links_under_faults", "behaviour/test_durable", "emit/test_s3_conformance", "monitoring/test_page"),
    *("monitoring/test_page_events", "testing/test_pytest_plugin", "emit/test_s3_endpoint", "ray/test_datasets"),
    *("cli/test_journal", "kafka/test_source", "bench/test_guard", "monitoring/test_page_on_ray"),
    *("behaviour/test_hooks", "examples/test_support_tickets", "monitoring/test_metrics"),
    *("monitoring/test_door_metrics", "gateway/test_tls", "ray/test_remote_step", "gateway/test_authentication"),
    *("behaviour/test_dead_letters", "monitoring/test_readiness", "packaging/test_dependencies"),
    *("actors/test_changing", "link/test_poison", "ingest/test_json_split", "behaviour/test_http"),
    *("ray/test_shortcut", "attacks/test_messages", "bench/test_destinations"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    folder = Path(__file__).parent
    ranks = {folder / f"{name}.py": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _no_lines_of_others() -> Iterator[None]:
    """Forget at the end of a test which lines it has repeated: a summary of them would be written during another."""
    yield
    for repeated in list(polku.log._ALL):
        with repeated._lock:
            repeated._kinds.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape in the captured output what cannot be encoded: xdist could not send the report of a hostile text."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Run one Ray for the whole session, as an application would that embeds pipelines; its workers are forked."""
    import ray

    from tests.support.ray_forks import forked_workers

    with forked_workers():
        try:
            _start_ray()
        except Exception:  # a node has half a minute to start, which a busy machine may exceed
            ray.shutdown()
            with warnings.catch_warnings(action="ignore"):
                gc.collect()  # what has failed has not closed its files
            _start_ray()
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        yield
        os.environ["RAY_ADDRESS"] = "local"
        ray.shutdown()


def _start_ray() -> None:
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        namespace="application",
        object_store_memory=200_000_000,
    )
