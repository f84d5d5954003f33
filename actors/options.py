"""The Ray options that every actor of a pipeline has, and the settings of a Ray that POLKU starts itself."""

from __future__ import annotations

from typing import Any

# Ray restarts an actor that dies (`max_restarts`); the supervisor only kills one that hangs. Links do the resending
# (task retries of Ray duplicate and reorder), calls overlap within one event loop, and nothing is recorded for each
# call. `num_cpus` 0: a part that waits for sockets must not wait for a free core.
ACTOR: dict[str, Any] = {
    "num_cpus": 0,
    "max_restarts": -1,
    "max_task_retries": 0,
    "max_concurrency": 1000,
    "enable_task_events": False,
}

_MEGABYTES = 4 * 1024 * 1024

# Batches up to 4 MB travel inside the call instead of through shared memory: 20 % more events a second.
SYSTEM_CONFIG: dict[str, Any] = {
    "max_direct_call_object_size": _MEGABYTES,
    "task_rpc_inlined_bytes_limit": 2 * _MEGABYTES,
}
