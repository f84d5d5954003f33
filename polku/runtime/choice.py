"""The runtime that goes by a name."""

from __future__ import annotations

from polku.gateway.addresses import Doors
from polku.plan import Plan
from polku.runtime import Runtime


def make_runtime(plan: Plan, name: str, doors: Doors) -> Runtime:
    """Return a runtime that has yet to start: `ray` or `inline`."""
    if name == "inline":
        from polku.runtime.inline import InlineRuntime

        return InlineRuntime(plan, doors)
    from polku.actors.runtime import RayRuntime

    return RayRuntime(plan, doors)
