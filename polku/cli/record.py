"""`polku record`: events of a running pipeline into a file, for `polku replay` and `polku send`."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from polku.cli.admin_client import To, find
from polku.cli.command import Option
from polku.cli.credentials import NOTHING, Shown
from polku.cli.tap import check_parts, ended, opened, replies
from polku.log_format import say
from polku.tap.request import MAX_LIMIT, What

_INTERVAL_SECONDS = 0.1


def record(
    out: Annotated[Path, Option(metavar="FILE", help="NDJSON; events are added at its end.")],
    part: Annotated[
        str, Option("--from", metavar="PART", help="What this part hands on, as `polku top` names it.")
    ] = "ingest",
    count: Annotated[int, Option(min=0, help="End after that many events; 0: never.")] = 0,
    seconds: Annotated[float, Option(min=0, help="End after that many seconds; 0: never.")] = 0,
    to: To = None,
    shown: Shown = NOTHING,
) -> None:
    """Write the events that a part of a running pipeline hands on to a file, until Ctrl-C; the pipeline waits for none.

    From `ingest`, which it is unless you choose another, they are as clients sent them, with id, time and source filled
    in. What comes faster than 10,000 events a second is a sample, and what the pipeline redacts stays so: the last line
    says how many of how many events were written.
    """
    address = find(to, shown)
    session = secrets.token_hex(8)
    query = urlencode({"session": session, "limit": MAX_LIMIT, "id": "", str(What.OUT): part})
    until = time.monotonic() + seconds if seconds else None
    written = passed = cut = 0
    with opened(out) as file, ended(address, session):
        assert file is not None
        for reply in replies(address, query, _INTERVAL_SECONDS, until):
            check_parts(reply, {str(What.OUT): [part]})
            passed += reply["passed"]
            for seen in reply["events"]:
                if "event" in seen and not (count and written >= count):
                    file.write(json.dumps(seen["event"]) + "\n")
                    written += 1
                    cut += bool(seen.get("payload_bytes_left_out"))
            file.flush()
            if count and written >= count:
                break
    of_all = f" of {passed}" if passed > written and not count else ""
    short = f"; the payloads of {cut} are cut" if cut else ""
    say(f"polku: {written}{of_all} events written to {out}{short}")
