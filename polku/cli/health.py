"""`polku health`: ask the admin address of a running pipeline how it is."""

from __future__ import annotations

import json
import os
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from polku.cli.command import Exit, Option
from polku.errors import SettingError
from polku.runtime.serving import say
from polku.security.configuration import secret_of

_SECONDS = 10.0
_DIRECT = build_opener(ProxyHandler({}))  # it is a machine of one's own

To = Annotated[str | None, Option("--to", metavar="HOST:PORT|URL", help="The admin address; or POLKU_ADMIN_ADDR.")]


def health(
    to: To = None,
    strict: Annotated[bool, Option("--strict", help="Fail too while any part is unwell.")] = False,
) -> None:
    """Ask a running pipeline how it is: print each part that is unwell.

    Exit status: 0, it takes events (with --strict: and every part is well); 1, it does not, or does not answer.
    """
    url = admin_url(to)
    try:
        status, body = fetch(f"{url}/health{'?strict' if strict else ''}")
        report = json.loads(body)
        parts = report["components"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        say(f"polku: {url}: no health to be had: {reason}")
        raise Exit(1) from None
    for name, part in sorted(parts.items()):
        if not part["healthy"]:
            print(f"{name}: {part['message']}")
    print("ready" if report["ready"] else f"not ready: {report['not_ready']}")
    if status != 200:
        raise Exit(1)


def admin_url(to: str | None) -> str:
    """Return the URL of an admin address; raises `SettingError`."""
    address = to or os.environ.get("POLKU_ADMIN_ADDR") or "127.0.0.1:50052"
    url = address if "://" in address else f"http://{address}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise SettingError("--to", address, "write HOST:PORT or http://HOST:PORT")
    return url.rstrip("/")


def fetch(url: str) -> tuple[int, bytes]:
    """Return the status, 200 or 503, and the body of an answer of the admin address; raises `OSError`."""
    token = secret_of(os.environ, "POLKU_ADMIN_TOKEN")
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with _DIRECT.open(request, timeout=_SECONDS) as response:
            return response.status, response.read()
    except HTTPError as error:
        if error.code != 503:
            raise URLError(f"{error.code} {error.reason}") from None
        return error.code, error.read()
