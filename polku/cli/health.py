"""`polku health`: ask the admin address of a running pipeline how it is."""

from __future__ import annotations

import json
import re
from typing import Annotated
from urllib.error import URLError

from polku.cli.admin_client import NOT_ADMIN, AdminAddress, To, find, reason_of
from polku.cli.command import Exit, Option
from polku.cli.credentials import NOTHING, Shown
from polku.log_format import say
from polku.text import next_attempt

_SOURCE = re.compile(r"(?:lane-[0-9]+/)?source:")


def health(
    to: To = None,
    shown: Shown = NOTHING,
    strict: Annotated[bool, Option("--strict", help="Fail too while any part is unhealthy.")] = False,
) -> None:
    """Ask a running pipeline how it is: print each part that is unhealthy or drops events, what helps, and its sources.

    Exit status: 0, it takes events (with --strict: and every part is well); 1, it does not, or does not answer.
    """
    address = find(to, shown)
    try:
        status, body = address.fetch(f"/health{'?strict' if strict else ''}")
        report = json.loads(body)
        parts = report["components"]
        if "ready" not in report:
            raise URLError(NOT_ADMIN)
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"polku: {address.url}: no health to be had: {reason_of(error)}")
        raise Exit(1) from None
    warnings = report.get("warnings", {})
    unhealthy = {
        name: part["message"] for name, part in sorted(parts.items()) if not part["healthy"] or name in warnings
    }
    for name, part in sorted(parts.items()):
        if part["healthy"] and _SOURCE.match(name):
            print(f"{name}: {part['message']}")
    helps = _helps(address) if unhealthy else {}
    attempts = report.get("next_attempt_seconds", {})
    for name, message in unhealthy.items():
        print("; ".join(filter(None, (f"{name}: {message}", next_attempt(attempts.get(name, 0.0))))))
        if text := helps.get(name):
            print(f"  {text}")
    print("ready" if report["ready"] else f"not ready: {report['not_ready']}")
    if status != 200:
        raise Exit(1)


def _helps(address: AdminAddress) -> dict[str, str]:
    """Return what helps each part, as far as that is told."""
    try:
        parts = json.loads(address.fetch("/statistics")[1])["parts"]
        return {name: " ".join(filter(None, (part["advice"], part["command"]))) for name, part in parts.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
