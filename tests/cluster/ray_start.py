"""`ray start`, without the processes of a node that no test asks: `python -m tests.cluster.ray_start OPTION…`."""

from __future__ import annotations

from ray.scripts.scripts import start

from tests.support.ray_forks import bare_nodes

if __name__ == "__main__":
    with bare_nodes():
        start()
