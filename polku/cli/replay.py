"""`polku replay`: recorded events through a pipeline again, and the difference to another version of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from polku.cli.cases import silent
from polku.cli.command import Argument, Exit, Option
from polku.errors import RecordError, SettingError
from polku.log_format import say
from polku.progress import Progress

if TYPE_CHECKING:
    from polku.event.v1.event_pb2 import Event

_SPEED = re.compile(r"(\d+(?:\.\d+)?)x")


def replay(
    file: Annotated[str, Argument(metavar="EVENTS", help="NDJSON, as `polku record` and StdoutEmitter write it.")],
    pipeline: Annotated[str, Argument(metavar="FILE[:NAME]", help="A Python file with a Hub (named `hub`, or NAME).")],
    against: Annotated[
        str | None, Option(metavar="FILE[:NAME]", help="Another version: show the events of which it makes others.")
    ] = None,
    speed: Annotated[str, Option(metavar="1x|10x|max", help="How fast the time of events passes.")] = "1x",
    limit: Annotated[int, Option("--limit", "-l", min=0, help="Show that many events that differ; 0: all.")] = 20,
    json: Annotated[bool, Option("--json", help="Print lines of JSON.")] = False,
) -> None:
    """Send recorded events through a pipeline in virtual time, with recorders in place of emitters: nothing is sent.

    With --against both versions get the same events, and the difference is shown by event id: other emitters, fields
    that are other, events that one of them drops, refuses or fails on. Hours of traffic take seconds. Exit status: 0,
    nothing differs; 1, something does; 2, a file cannot be read.
    """
    from polku.cli.load import load_hub
    from polku.testing.replay import Fates, compare, fates_of, summary
    from polku.testing.replay import replay as send_again

    pace = _pace(speed)
    events = list(_events(file))
    before: Fates = _elsewhere(file, against, speed) if against is not None else {}
    with silent(), Progress("replaying", len(events)) as bar:
        outcome = send_again(load_hub(pipeline, runtime="inline"), events, speed=pace, progress=bar.move)
    after = fates_of(outcome)
    if against is None:
        for line in _lines({"id": name, **fate} for name, fate in after.items()) if json else summary(outcome):
            print(line)
        return
    changes = compare(before, after)
    changed = list(dict.fromkeys(change.event_id for change in changes))
    if json:
        for line in _lines(change._asdict() for change in changes):
            print(line)
    else:
        for event_id in changed[: limit or None]:
            print(event_id)
            for change in changes:
                if change.event_id == event_id:
                    print(f"  {change.what}\n    before  {change.before}\n    after   {change.after}")
        if limit and len(changed) > limit:
            print(f"… and {len(changed) - limit} more; --limit 0 shows all")
        print(f"{len(after.keys() | before.keys()) - len(changed)} events alike, {len(changed)} differ")
    if changes:
        raise Exit(1)


def _elsewhere(file: str, pipeline: str, speed: str) -> dict[str, dict[str, Any]]:
    """Run the other version in a process of its own: modules of the same name may stand next to both."""
    command = [sys.executable, "-m", "polku", "replay", file, pipeline, "--speed", speed, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise Exit(done.returncode)
    fates = (msgspec.json.decode(line, type=dict[str, Any]) for line in done.stdout.splitlines())
    return {str(fate.pop("id")): fate for fate in fates}


def _events(file: str) -> Iterator[Event]:
    """Yield the events of a file; a line that is none is named and left out."""
    from polku.contracts import IngestContext
    from polku.ingest import JsonIngestor

    ingestor, context = JsonIngestor(), IngestContext("ndjson")
    try:
        with Path(file).open("rb") as stream:
            for number, line in enumerate(stream, 1):
                for record in ingestor.ingest(line, context):
                    if isinstance(record, RecordError):
                        say(f"{file}:{number}: {record.message}")
                    else:
                        record.id = record.id or f"line-{number}"
                        yield record
    except OSError as error:
        raise SettingError("EVENTS", file, f"cannot be read: {error.strerror}") from None


def _pace(speed: str) -> float | None:
    if speed == "max":
        return None
    found = _SPEED.fullmatch(speed)
    if found is None or not float(found[1]):
        raise SettingError("--speed", speed, "write 1x, 10x, 0.5x or max")
    return float(found[1])


def _lines(records: Iterator[dict[str, Any]]) -> Iterator[str]:
    return (msgspec.json.encode(record).decode() for record in records)
