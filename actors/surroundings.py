"""What an actor's process is told besides its own part: how it is called, how it logs and is traced."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import ray

from polku.log_format import Origin, configure_worker, name_process
from polku.plan import Plan

_PASSED_ON = ("POLKU_LOG_", "POLKU_METRICS", "OTEL_")


class Surroundings(NamedTuple):
    """Whose process it is, and the settings of the program that has started the pipeline.

    A Ray that was started elsewhere does not have that program's environment.
    """

    origin: Origin = Origin()
    environment: Mapping[str, str] = {}

    def settle(self) -> None:
        """Set up the log of this process; what user code prints goes there: standard output carries events."""
        sys.stdout.flush()
        os.dup2(2, 1)
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        configure_worker(os.environ)
        name_process(self.origin._replace(node=ray.util.get_node_ip_address()))


def surroundings(plan: Plan, component: str, lane: int | None = None) -> Surroundings:
    """Return what the process of a part is told; `lane` is the number of its lane."""
    name = f"lane-{lane}" if lane is not None and plan.side_by_side else ""
    environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    return Surroundings(Origin(plan.name.removesuffix(f"/{name}"), name, component), environment)
