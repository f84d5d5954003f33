"""What stands in for an ingestor plugin that is gone."""

from __future__ import annotations

from polku.codes import Code
from polku.contracts import IngestContext, Records
from polku.errors import InputError
from polku.external.client import PluginState


class Absent:
    """Answer UNAVAILABLE, so that clients keep their events and send them again."""

    def __init__(self, reason: str, *, alarm: bool) -> None:
        self._reason = reason
        self._alarm = alarm

    def ingest(self, data: bytes, context: IngestContext) -> Records:
        """Raise `InputError`."""
        raise InputError(Code.UNAVAILABLE, f"ingestor for source={context.source!r}: {self._reason}; send again later")

    def state(self) -> PluginState:
        """Return how the plugin is: gone."""
        return PluginState(self._reason, self._reason if self._alarm else "", 0, 0, 0)
