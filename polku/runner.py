"""Bring a plan to life: open its ports as arguments and the environment say, and serve."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from polku.errors import NotRunningError, PipelineError
from polku.gateway.addresses import Addresses, Doors
from polku.gateway.exposure import check_exposure, insecure_of_environment
from polku.gateway.tls import tls_of_environment
from polku.monitoring.address import Admin, admin_of
from polku.plan import Plan
from polku.security.configuration import secret_of, tokens_of_environment

if TYPE_CHECKING:
    from polku.pipeline import Pipeline
    from polku.runtime.reloading import Reloader


def addresses_of_environment() -> Addresses:
    """Return the addresses to open where nobody chooses others."""
    grpc = os.environ.get("POLKU_GRPC_ADDR") or "127.0.0.1:50051"
    return Addresses(grpc, *(os.environ.get(f"POLKU_{name}_ADDR") or None for name in ("HTTP", "OTLP", "OTLP_HTTP")))


class Runner:
    """Bring a plan to life on a runtime: one pipeline at a time."""

    def __init__(self, plan: Plan, runtime: str, *, is_told: bool = False) -> None:
        self.plan = plan
        self._is_told = is_told
        self.runtime = runtime
        self._pipeline: Pipeline | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The running pipeline; raises `NotRunningError` before `start` or `run`."""
        if self._pipeline is None:
            raise NotRunningError("the pipeline was not started; call runner.start() or runner.run() first")
        return self._pipeline

    def start(
        self,
        *,
        grpc_addr: str | None = None,
        http_addr: str | None = None,
        otlp_addr: str | None = None,
        otlp_http_addr: str | None = None,
        http_token: str | None = None,
        admin_addr: str | None = None,
        admin_token: str | None = None,
        admin_read_token: str | None = None,
    ) -> Pipeline:
        """Start, and return the running pipeline; see `Hub.start`."""
        plan = self.plan
        admin = None
        if admin_addr is not None:
            admin = admin_of(admin_addr, admin_token, plan.tls, read_token=admin_read_token)
        return self.open(
            Doors(
                http_token=http_token,
                tls=plan.tls,
                tokens=plan.tokens,
                stamp=plan.stamp,
                origins=plan.origins,
                require=plan.require_security,
                admin_addr=admin.url if admin is not None else None,
            ).at(Addresses(grpc_addr, http_addr, otlp_addr, otlp_http_addr).over(plan.listen)),
            admin=admin,
        )

    def open(
        self, doors: Doors, *, admin: Admin | None = None, wait: bool = True, reloader: Reloader | None = None
    ) -> Pipeline:
        """Start with these doors, and return the running pipeline; without `wait` one that may still be starting.

        Raises `PipelineError` while the pipeline that it started before has not been stopped.
        """
        from polku.pipeline import Pipeline

        if self._pipeline is not None and not self._pipeline.has_ended:
            raise PipelineError("this runner's pipeline has not been stopped; stop it first, or build another runner")
        check_exposure(doors)
        self._pipeline = Pipeline(
            self.plan, self.runtime, doors, admin=admin, wait=wait, reloader=reloader, is_told=self._is_told
        )
        return self._pipeline

    def run(
        self,
        *,
        grpc_addr: str | None = None,
        http_addr: str | None = None,
        otlp_addr: str | None = None,
        otlp_http_addr: str | None = None,
        http_token: str | None = None,
        admin_addr: str | None = None,
        drain: float | None = None,
        reloader: Reloader | None = None,
        progress: bool = False,
    ) -> None:
        """Open the gateway and serve until a signal comes, then drain; see `Hub.run`."""
        from polku.runtime.serving import serve
        from polku.tracing.export import traced

        self.plan = traced(self.plan, os.environ)
        tls = self.plan.tls or tls_of_environment()
        token = secret_of(os.environ, "POLKU_ADMIN_TOKEN")
        read_token = secret_of(os.environ, "POLKU_ADMIN_READ_TOKEN")
        admin = admin_of(admin_addr or os.environ.get("POLKU_ADMIN_ADDR") or None, token, tls, read_token=read_token)
        chosen = Addresses(grpc_addr, http_addr, otlp_addr, otlp_http_addr).over(self.plan.listen)
        serve(
            self,
            Doors(
                http_token=http_token or secret_of(os.environ, "POLKU_HTTP_TOKEN"),
                tls=tls,
                tokens=self.plan.tokens or tokens_of_environment(),
                stamp=self.plan.stamp,
                origins=self.plan.origins,
                require=self.plan.require_security,
                insecure=insecure_of_environment(),
                admin_addr=admin.url if admin is not None else None,
            ).at(chosen.over(addresses_of_environment())),
            admin=admin,
            drain=drain,
            reloader=reloader,
            progress=progress,
        )
