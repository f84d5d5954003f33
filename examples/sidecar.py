"""A small proxy beside one service that logs `key=value` lines: each line becomes an event for the central gateway.

    UPSTREAM=http://gateway:50051 polku run examples/sidecar.py --runtime inline

The service sends its lines as raw bytes with source `legacy`. Without UPSTREAM the events are printed. One process, no
Ray: this is the pipeline to put into a container next to the service.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from polku import Event, GrpcEmitter, Hub, RecordError, StdoutEmitter

UPSTREAM = os.environ.get("UPSTREAM")


def parse_lines(data: bytes) -> Iterator[Event | RecordError]:
    """Turn lines such as `event=login user=ada host=web-0` into events; a line without an event is an error."""
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        try:
            fields = dict(part.split("=", 1) for part in shlex.split(line))
            yield Event(event_type=f"legacy.{fields.pop('event')}", metadata=fields)
        except (ValueError, KeyError):
            yield RecordError(f"{line[:60]!r} is not `event=NAME key=value ...`", line=number)


hub = (
    Hub()
    .ingestor(parse_lines, source="legacy")
    .emitter(GrpcEmitter(UPSTREAM, source="sidecar") if UPSTREAM else StdoutEmitter())
)
