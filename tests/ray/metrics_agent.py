"""A pipeline on a Ray of its own that hands its metrics to it; prints what the node's metrics port shows of them.

Ends once a count that the pipeline made stands there, or after a minute and a half.
"""

from __future__ import annotations

import os
import socket
import time
import urllib.request

import ray

from polku import Batch, Filter, Hub, new_event

EVENTS = 7


def partner(batch: Batch) -> None:
    """Take everything."""


def main() -> None:
    """Run it; the port is one that was free a moment ago."""
    os.environ["POLKU_METRICS"] = "ray"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        "local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 500},
    )
    hub = Hub(name="shop").middleware(Filter(lambda event: True)).emitter(partner)
    with hub.start(runtime="ray") as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(EVENTS)])
        limit = time.monotonic() + 90
        shown: list[str] = []
        while not any(is_last(line) for line in shown) and time.monotonic() < limit:
            time.sleep(0.5)
            shown = [line for line in scrape(port) if "polku_" in line.partition("{")[0]]
    print("\n".join(shown))


def is_last(line: str) -> bool:
    """Return whether a line counts all events that were delivered."""
    return line.startswith("ray_polku_delivery_age_seconds_count{") and line.endswith(f" {EVENTS}.0")


def scrape(port: int) -> list[str]:
    """Return what the metrics agent of the node shows now."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8").splitlines()
    except OSError:  # it starts after the node
        return []


if __name__ == "__main__":
    main()
