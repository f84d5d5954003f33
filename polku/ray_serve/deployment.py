"""Which deployment of Ray Serve is called, with what, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from polku import checks
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event


class Deployment(NamedTuple):
    """The `method` of a `deployment` of the application `app`; an empty `deployment` is the application's ingress.

    It is called with `request(event)`, or with the event itself, and a call has `timeout` seconds.
    """

    app: str
    deployment: str
    method: str
    request: Callable[[Event], Any] | None
    timeout: float
    max_in_flight: int

    def __str__(self) -> str:
        method = "" if self.method == "__call__" else f".{self.method}"
        return f"{self.app}{f'/{self.deployment}' if self.deployment else ''}{method}"


def check(where: str, deployment: Deployment) -> None:
    """Raise `PlanError` where a deployment is not described as it must be."""
    for field in ("app", "deployment", "method"):
        value = getattr(deployment, field)
        if not isinstance(value, str) or not (value or field == "deployment"):
            raise checks.fault(where, field, value, "must be a name, as Ray Serve has it")
    if deployment.request is not None:
        checks.function(where, "request", deployment.request, sync=True)
    checks.positive(where, "timeout", deployment.timeout)
    checks.whole(where, "max_in_flight", deployment.max_in_flight)


def check_serve(where: str) -> None:
    """Raise `PlanError` where Ray Serve is not installed."""
    try:
        __import__("ray.serve")
    except ImportError as error:
        fix = f"needs Ray Serve, which is not installed ({error}): pip install 'polku[serve]'"
        raise PlanError(fix, where=where) from None
