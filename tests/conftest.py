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
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # and this one where a shell has started the tests with `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in [name for name in os.environ if name.startswith("POLKU_")]:
    del os.environ[name]

# The files that take longest, the longest first: each worker of xdist takes the next file, and none should be left with
# a long one at the end.
LONG = (
    *("typing/test_typing", "docs/test_pages", "ray/test_attachment", "chaos/test_chaos", "docs/test_site"),
    *("attacks/test_turns", "cli/test_bench", "fuzz/test_corpus", "monitoring/test_page", "kafka/test_source_faults"),
    *("simulation/test_simulation", "actors/test_lanes", "ray/test_arrangements", "ray/test_serve"),
    *("actors/test_changing", "monitoring/test_page_looks", "postgres/test_postgres", "attacks/test_messages"),
    *("emit/test_conformance", "testing/test_pytest_plugin", "packaging/test_packaging"),
    *("ray/test_levelling", "redis/test_redis", "bench/test_guard", "monitoring/test_page_events", "ray/test_poison"),
    *("simulation/test_journals", "clients/test_calls", "external/test_ingest", "testing/test_check"),
    *("cli/test_log_format", "monitoring/test_tap", "bench/test_destinations", "cli/test_serve"),
    *("ray/test_application", "bench/test_report", "files/test_source", "emit/test_s3_endpoint", "ray/test_deaths"),
    *("nats/test_nats", "buffer/test_damaged_journal", "examples/test_support_tickets", "packaging/test_versions"),
    *("emit/test_kafka", "emit/test_s3_pipeline", "external/test_emit", "wire/test_generated"),
    *("actors/test_partitions", "examples/test_examples", "gateway/test_tls", "actors/test_resizing"),
    *("examples/test_plugins", "cli/test_validate", "behaviour/test_durable", "packaging/test_layout"),
    *("emit/test_s3_conformance", "ray/test_scaling", "clients/test_sinks", "gateway/native/test_connections"),
    *("ray/test_changing", "durable/test_killed", "kafka/test_source", "plugin/test_registration"),
    *("monitoring/test_page_on_ray", "stage/test_replicas", "packaging/test_release", "cli/test_credentials"),
    *("cli/test_reload", "emit/test_s3_tls", "clients/test_mutual_tls", "ingest/test_json_cut"),
    *("gateway/test_authentication", "packaging/test_dependencies", "ray/test_node_lost"),
    *("buffer/test_journal_answers", "monitoring/test_readiness", "durable/test_full_disk", "buffer/test_durable"),
    *("postgres/test_postgres_tls", "simulation/test_disk", "link/test_poison", "batch/test_lineage"),
    *("buffer/test_journal_damage", "link/test_links_under_faults", "gateway/test_ack_size", "packaging/test_loading"),
    *("tracing/test_on_ray", "behaviour/test_dead_letters", "attacks/test_otlp", "monitoring/test_door_metrics"),
    *("cli/test_init", "kafka/test_kafka_tls", "cli/test_journal", "rpc/test_client", "ray/test_remote_step"),
    *("packaging/test_sizes", "testing/test_strategies", "tracing/test_inline", "monitoring/test_alerts"),
    *("docs/test_webhooks", "ray/test_libraries"),
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
