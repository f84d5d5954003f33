"""`polku send`: events from the command line, or of a file, to a gateway."""

from __future__ import annotations

from typing import Annotated, Any

from polku.cli.command import Argument, Exit, Option
from polku.cli.credentials import NOTHING, Shown
from polku.errors import SettingError
from polku.log_format import say


def send(
    file: Annotated[str | None, Argument(metavar="[FILE]", help="NDJSON; `-` is standard input.")] = None,
    to: Annotated[
        str, Option(metavar="ADDRESS", help="The gateway: HOST:PORT, https://HOST:PORT or unix:PATH.")
    ] = "localhost:50051",
    type: Annotated[str | None, Option(help="One event: its type.")] = None,
    id: Annotated[str, Option(help="One event: its id, else one is made.")] = "",
    source: Annotated[str, Option(help="The source of events that have none.")] = "polku-send",
    cluster: Annotated[str, Option(help="The cluster of events that have none.")] = "",
    payload: Annotated[str, Option(help="One event: its payload, as text.")] = "",
    severity: Annotated[str, Option(help="One event: debug, info, warning, error or critical.")] = "info",
    metadata: Annotated[list[str] | None, Option(metavar="KEY=VALUE", help="One event; repeatable.")] = None,
    shown: Shown = NOTHING,
) -> None:
    """Send one event made of the options (at least --type), or all events of an NDJSON file."""
    import asyncio

    import grpc

    from polku.cli.refusals import Refusals
    from polku.cli.sending import one_event, open_stream, read_events, read_target, why
    from polku.cli.sending import send as send_events
    from polku.progress import Progress

    if file is not None and type is not None:
        raise SettingError("FILE", file, f"--type={type!r} is given too; give one of them")
    if not file and not type:
        raise SettingError("FILE", file or "", "give a file (`-` is standard input), or the --type of one event")
    target = read_target(to, shown)
    total, refusals = None, Refusals(say)
    if type is not None:
        events: Any = iter([one_event(id, type, payload, severity, metadata or [])])
    else:
        stream, total = open_stream(str(file))
        events = read_events(stream, refusals)
    try:
        with Progress("sending", total) as bar:
            tally = asyncio.run(
                send_events(
                    events,
                    to=target,
                    source=source,
                    cluster=cluster,
                    report=say,
                    advance=bar.advance,
                    refusals=refusals,
                )
            )
    except grpc.RpcError as error:
        by = f" (by {target.proxy})" if target.proxy is not None else ""
        say(f"polku: {to}{by}: {why(error)}", level="error")
        raise Exit(1) from None
    finally:
        refusals.close()
    say(f"{tally.accepted} accepted, {tally.refused} refused")
    if tally.refused:
        raise Exit(1)
