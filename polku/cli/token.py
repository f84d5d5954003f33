"""`polku token new`: a token for a client, and the lines about it for the file of principals."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated

from polku.cli.command import App, Argument, Option
from polku.errors import PlanError, SettingError
from polku.log_format import say

app = App("Make tokens for clients.")


@app.command()
def new(
    name: Annotated[str, Argument(help="The principal: who gets the token.")],
    source: Annotated[list[str] | None, Option(metavar="PATTERN", help="May send it; repeatable.")] = None,
    cluster: Annotated[list[str] | None, Option(metavar="PATTERN", help="May send it; repeatable.")] = None,
    may_route: Annotated[bool, Option("--may-route", help="May name emitters in route_to.")] = False,
    plugin: Annotated[list[str] | None, Option(metavar="PATTERN", help="May register as it; repeatable.")] = None,
    events_per_second: Annotated[float | None, Option(help="Events a second at most.")] = None,
    bytes_per_second: Annotated[float | None, Option(help="Bytes a second at most.")] = None,
    streams: Annotated[int | None, Option(help="Open streams at most.")] = None,
    connections: Annotated[int | None, Option(help="Connections at most.")] = None,
    days: Annotated[int, Option(help="How long it is valid; 0: for ever.")] = 90,
    save: Annotated[
        str | None, Option(metavar="FILE", help="Write it there, readable by you alone, and show it not at all.")
    ] = None,
) -> None:
    """Make a token, show it once on standard error, and print the lines for the file, which do not have it.

    With rights the lines are those of a new principal; without, one more token of a principal that the file has:
    `polku token new agents --source 'agent-*' >> tokens.toml`, later `polku token new agents >> tokens.toml`.
    """
    from polku.security.token_file import file_lines, new_token

    if days < 0:
        raise SettingError("--days", days, "write a number of days, or 0 for a token without an end")
    given = {
        "sources": source,
        "clusters": cluster,
        "may_route": may_route,
        "plugins": plugin,
        "events_per_second": events_per_second,
        "bytes_per_second": bytes_per_second,
        "streams": streams,
        "connections": connections,
    }
    rights = {right: value for right, value in given.items() if value}
    token = new_token()
    end = (datetime.now(UTC) + timedelta(days=days)).date() if days else None
    try:
        lines = file_lines(name, token, rights, end)
    except PlanError as error:
        raise SettingError("token new", name, error.message) from None
    if save is not None:
        _save(token, save)
    else:
        say(f"the token of {name}, which is shown this once and written nowhere:\n{token}")
    print(lines, end="")


def _save(token: str, path: str) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(f"{token}\n")
    except FileExistsError:
        raise SettingError("--save", path, "is there already; name a new file") from None
    except OSError as error:
        raise SettingError("--save", path, f"cannot be written: {error.strerror}") from None
