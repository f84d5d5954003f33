"""Find out before a start whether the packages are installed that a plan, or the environment, asks for."""

from __future__ import annotations

from polku.aio.loops import new_event_loop
from polku.gateway.addresses import Doors
from polku.gateway.grpc_server import choose
from polku.plan import Plan


def check_extras(plan: Plan) -> None:
    """Raise `PlanError` or `SettingError` with the command that installs what is missing."""
    components = [component for _, component in plan.ingestors]
    components += [plan.default_ingestor, *(source.source for source in plan.sources)]
    components += [middleware.component for stage in plan.stages for middleware in stage.middleware]
    components += [outlet.emitter for outlet in plan.outlets]
    for component in components:
        check = getattr(component, "check_extras", None)
        if callable(check):
            check()
    choose(Doors())
    new_event_loop().close()
