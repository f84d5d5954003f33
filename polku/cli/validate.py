"""`polku validate` and `polku graph`: what a plan is, and what is wrong with it; nothing is started."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from polku.cli.command import Exit
from polku.cli.plan_file import Chain, File, Lanes, Runtime, load_plan_file
from polku.cli.settings import read_settings
from polku.errors import PlanError, SettingError
from polku.gateway.tls import tls_of_environment
from polku.log_format import say, warn
from polku.security.configuration import tokens_of_environment


def validate(file: File, runtime: Runtime = None, chain: Chain = False, lanes: Lanes = None) -> None:
    """Run a Python file to build its plan, and start nothing: print the plan's parts, or what is wrong with it.

    Whatever the file does when it is imported, it does here too. A package that is not installed, although the plan
    needs it, is named with the command that installs it; status 1 says that the plan cannot work.
    """
    from polku.cli.extras import check_extras
    from polku.cli.graph import outline
    from polku.runtime.orphaned_journals import check_places

    try:
        plan = load_plan_file(file, runtime, chain=chain, lanes=lanes).plan(runtime)
        check_extras(plan)
        _check_certificates(plan)
        _check_tokens(plan)
    except PlanError as error:
        say(f"{file}: {error}")
        raise Exit(1) from None
    check_places(plan)
    _warn_of_exposure(plan)
    for line in outline(plan):
        print(line)


def graph(file: File, runtime: Runtime = None, chain: Chain = False, lanes: Lanes = None) -> None:
    """Run a Python file to build its plan, start nothing, and print the plan as a Mermaid flowchart.

    It shows what runs in which actor, and in how many lanes.
    """
    from polku.cli.graph import mermaid

    print(mermaid(load_plan_file(file, runtime, chain=chain, lanes=lanes).plan(runtime)))


def _check_certificates(plan: Any) -> None:
    """Raise `PlanError` where the files of TLS cannot be used."""
    from polku.gateway.certificates import Certificates

    tls = plan.tls or tls_of_environment()
    if tls is None:
        return
    try:
        certificates = Certificates(tls)
        if tls.admin_client_ca is not None:
            Certificates(tls.of_admin)
    except SettingError as error:
        raise PlanError(str(error)) from None
    now = datetime.now(UTC)
    text = certificates.expiry(now)
    if certificates.expires is not None and certificates.expires <= now:
        raise PlanError(text)
    if text:
        warn(text)


def _check_tokens(plan: Any) -> None:
    """Raise `PlanError` where the file of principals cannot be used."""
    from polku.security.authenticator import load

    path = plan.tokens or tokens_of_environment()
    try:
        principals = load(path) if path else None
    except SettingError as error:
        raise PlanError(str(error)) from None
    if principals is not None and not principals.by_name:
        warn(f"tokens={path!r}: has no principals, so nobody may send; see `polku token new`")


def _warn_of_exposure(plan: Any) -> None:
    """Warn of addresses that the file and the environment name, if others would reach them; raises `SettingError`.

    What is forbidden counts the default address too: `polku run` opens it where none is named.
    """
    from polku.gateway.addresses import Addresses, Doors
    from polku.gateway.exposure import check_exposure, exposure
    from polku.monitoring.address import OFF

    settings = read_settings(os.environ)
    doors = Doors(
        http_token=settings.http_token,
        tls=plan.tls or tls_of_environment(),
        tokens=plan.tokens or settings.tokens,
        require=plan.require_security,
        admin_addr=None if settings.admin_addr == OFF else settings.admin_addr,
    )
    grpc = settings.grpc_addr if os.environ.get("POLKU_GRPC_ADDR", "").strip() else None
    environment = Addresses(grpc, settings.http_addr, settings.otlp_addr, settings.otlp_http_addr)
    named = plan.listen.over(environment)
    check_exposure(doors.at(named.over(Addresses(settings.grpc_addr))))
    if not settings.insecure and (text := exposure(doors.at(named))):
        warn(text)
