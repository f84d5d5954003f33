"""A Ray that exports its events to a pipeline in it, and whose actor dies; ends when standard input does.

`python -m tests.ray.watched_ray PORT FILE`: events go to FILE, as a `Recorder` writes them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import ray

from polku import Deduplicator, Hub, RayEventsIngestor
from tests.support.recorder import Recorder


@ray.remote(num_cpus=0)
class Victim:
    def die(self) -> None:
        os._exit(1)


def main(port: str, file: str) -> None:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    hub = Hub(runtime="ray").ingestor(RayEventsIngestor()).middleware(Deduplicator()).emitter(Recorder(Path(file)))
    with hub.start(http_addr=f"127.0.0.1:{port}"):
        kind: Any = Victim
        victim = kind.options(name="victim").remote()
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(victim.die.remote())
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
