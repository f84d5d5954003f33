"""Keep the events of users, mark them, print them.

    polku run examples/quickstart.py --runtime inline

and, from a second terminal,

    polku send --type user.login --metadata user=ada

Without `--runtime inline` every part is an actor on Ray.
"""

from __future__ import annotations

from polku import Event, Filter, Hub, StdoutEmitter, Transform


def mark_processed(event: Event) -> None:
    event.metadata["processed"] = "true"


hub = (
    Hub()
    .middleware(Filter(lambda event: event.event_type.startswith("user.")))
    .middleware(Transform(mark_processed))
    .emitter(StdoutEmitter())
)
