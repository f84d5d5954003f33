"""The environment of all tests: set before ray is imported, and one Ray for those that need it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow to draw examples, and slow to try them: neither says anything about the code.
settings.register_profile("polku", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("polku")

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["RAY_ADDRESS"] = "local"  # programs that tests start must not attach to a Ray that is none of theirs
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup programs that tests start would ignore it
for name in [name for name in os.environ if name.startswith("POLKU_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Run one Ray for the whole session, as an application would that embeds pipelines."""
    import ray

    from tests.support.ray_forks import forked_workers

    with forked_workers():
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            namespace="application",
            object_store_memory=200_000_000,
        )
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        yield
        os.environ["RAY_ADDRESS"] = "local"
        ray.shutdown()
