"""`polku ps`: which pipelines of this user run on this machine."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from polku.cli.admin_client import address_of, reason_of
from polku.cli.command import Option
from polku.log_format import say
from polku.monitoring.run_files import RunningPipeline, running
from polku.text import line

_SECONDS = 3.0
_TITLES = ("NAME", "PID", "UP", "RUNTIME", "GRPC", "HTTP", "ADMIN", "FILE", "STATE")


def ps(
    as_json: Annotated[bool, Option("--json", help="One JSON object a line, for programs.")] = False,
    link: Annotated[
        bool, Option("--link", help="Addresses of the live pages, with the key that lets a browser see events.")
    ] = False,
) -> None:
    """List the running pipelines of this user on this machine: file, runtime, addresses, since when, well or not.

    Those are listed that have an open port, on Ray too; in a container or on a machine of their own they are listed
    there.
    """
    pipelines = running()
    if not pipelines and not as_json:
        say("polku: no pipeline of this user runs here")
        return
    if link:
        for pipeline in pipelines:
            print(f"{line(pipeline.name)}  {_link(pipeline)}")
        return
    with ThreadPoolExecutor(max_workers=8) as asking:
        states = list(asking.map(_state, pipelines))
    if as_json:
        for pipeline, state in zip(pipelines, states, strict=True):
            fields = {name: value for name, value in pipeline._asdict().items() if name != "key"}
            print(json.dumps({**fields, "state": state}))
        return
    rows = [_TITLES, *(_cells(pipeline, state) for pipeline, state in zip(pipelines, states, strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _state(pipeline: RunningPipeline) -> str:
    """Return how a pipeline is, as it says itself."""
    if not pipeline.admin:
        return "no admin address"
    try:
        report = json.loads(address_of(pipeline).fetch("/health", seconds=_SECONDS)[1])
        unhealthy = sorted(name for name, part in report["components"].items() if not part["healthy"])
        if not report["ready"]:
            return f"not ready: {line(report['not_ready'])}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"does not answer: {line(reason_of(error))}"
    return f"ready; unhealthy: {line(', '.join(unhealthy))}" if unhealthy else "ready"


def _link(pipeline: RunningPipeline) -> str:
    """Return what a browser opens; the part behind the # stays in it, and goes to no server."""
    address = address_of(pipeline)
    if not pipeline.admin or not address.url.startswith("http"):
        return f"({pipeline.admin or 'no admin address'}: no browser reaches it)"
    return f"{address.url}/#key={pipeline.key}"


def _cells(pipeline: RunningPipeline, state: str) -> tuple[str, ...]:
    file = os.path.relpath(pipeline.file) if pipeline.file else ""
    shown = file if file and len(file) < len(pipeline.file) else pipeline.file
    named = (pipeline.runtime, pipeline.grpc, pipeline.http, pipeline.admin, shown)
    return (
        line(pipeline.name),
        str(pipeline.pid),
        _age(time.time() - pipeline.since),
        *(line(x) or "-" for x in named),
        state,
    )


def _age(seconds: float) -> str:
    """Return a time in its largest two units."""
    left = max(0, int(seconds))
    days, left = divmod(left, 86_400)
    hours, left = divmod(left, 3_600)
    minutes, left = divmod(left, 60)
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    while len(units) > 1 and not units[0][0]:
        units.pop(0)
    return " ".join(f"{number}{unit}" for number, unit in units[:2] if number or unit == "s")
