"""Three destinations: a file for audits, a file for alarms that may lag only a little, and standard output.

    polku run examples/routing.py

Audit events go to their file and are printed; errors go to the alarms; everything else is printed. If the alarms
cannot be written, at most 1,000 wait and older ones are dropped: nobody wants yesterday's alarms. The other two wait.
"""

from __future__ import annotations

import os
from pathlib import Path

from polku import Batch, Event, Hub, Router, Severity, StdoutEmitter

FOLDER = Path(os.environ.get("FOLDER", "."))


class FileEmitter:
    """Append a line for each event to a file."""

    def __init__(self, name: str) -> None:
        self.name = name  # the address that the Router uses

    def emit(self, batch: Batch) -> None:
        with (FOLDER / f"{self.name}.log").open("a", encoding="utf-8") as file:
            file.writelines(f"{event.id} {event.event_type}\n" for event in batch)


def is_error(event: Event) -> bool:
    return event.severity >= Severity.SEVERITY_ERROR


hub = (
    Hub()
    .middleware(
        Router().type_prefix("audit.", to=["audit", "stdout"]).when(is_error, to=["alarms", "stdout"]).default("stdout")
    )
    .emitter(FileEmitter("audit"))
    .emitter(FileEmitter("alarms"), overflow="drop_oldest")
    .emitter(StdoutEmitter())
)
