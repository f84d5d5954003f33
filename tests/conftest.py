"""The environment of all tests: set before ray is imported, and one Ray for those that need it."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

import polku.log
from tests.support.loops import name_birthplaces

if TYPE_CHECKING:
    from tests.support.browser import Browser

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
    *("typing/test_typing", "docs/test_pages", "ray/test_attachment", "chaos/test_chaos", "kafka/test_source_faults"),
    *("cluster/test_cluster", "ray/test_arrangements", "ray/test_lanes", "examples/test_examples"),
    *(
        "redis/test_redis",
        "emit/test_conformance",
        "testing/test_pytest_plugin",
        "actors/test_lanes",
        "ray/test_levelling",
    ),
    *("simulation/test_journals", "ray/test_poison", "postgres/test_postgres", "ray/test_node_lost"),
    *("docs/test_site", "testing/test_check", "examples/test_plugins", "examples/test_support_tickets"),
    *("ray/test_serve", "wire/test_generated", "external/test_ingest", "cli/test_bench", "kafka/test_source"),
    *("simulation/test_simulation", "ray/test_application", "clients/test_calls", "nats/test_nats"),
    *("ray/test_deaths", "emit/test_kafka", "cli/test_log_format", "monitoring/test_readiness"),
    *("ray/test_remote_step", "emit/test_s3_endpoint", "monitoring/test_page", "ray/test_changing"),
    *("cli/test_reload", "gateway/native/test_connections", "packaging/test_packaging"),
    *("monitoring/test_page_events", "emit/test_s3_pipeline", "clients/test_sinks", "buffer/test_damaged_journal"),
    *("plugin/test_registration", "tracing/test_on_ray", "link/test_links_under_faults", "behaviour/test_durable"),
    *("emit/test_s3_conformance", "cli/test_validate", "cli/test_serve", "durable/test_killed"),
    *("postgres/test_postgres_tls", "gateway/test_tls", "nats/test_nats_tls", "attacks/test_messages"),
    *("gateway/test_authentication", "cli/test_init", "simulation/test_disk", "files/test_source"),
    *("clients/test_mutual_tls", "buffer/test_journal_answers", "durable/test_full_disk", "buffer/test_durable"),
    *("bench/test_guard", "ray/test_shortcut", "cli/test_journal", "attacks/test_turns"),
    *("monitoring/test_door_metrics", "packaging/test_dependencies", "ray/test_ports_again", "actors/test_changing"),
    *("behaviour/test_dead_letters", "attacks/test_otlp", "ray/test_cannot_start", "gateway/http/test_requests"),
    *("monitoring/test_page_on_ray", "tracing/test_inline", "link/test_poison", "testing/test_strategies"),
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are found, and never again among them: all that is made there stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run one browser for the whole session."""
    from tests.support.browser import Browser

    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def browser(chromium: Browser) -> Iterator[Browser]:
    """Yield the browser to the tests of a file, and close what pages they leave open."""
    yield chromium
    chromium.close_pages()


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
