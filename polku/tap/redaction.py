"""What nobody who looks at events may see of them."""

from __future__ import annotations

from fnmatch import fnmatchcase

from msgspec import Struct

from polku.event.v1.event_pb2 import Event

REDACTED = "[redacted]"


class Redaction(Struct, frozen=True):
    """Take out the values of metadata whose keys match one of these globs, in small letters, and, if so, the payload.

    The typed data of an event counts as its payload.
    """

    metadata: tuple[str, ...] = ()
    payload: bool = False

    def redacted(self, event: Event) -> Event:
        """Return the event, or a copy without what is not to be seen."""
        keys = [key for key in event.metadata if self._hides(key)] if self.metadata else []
        if not keys and not self.payload:
            return event
        shown = Event()
        shown.CopyFrom(event)
        for key in keys:
            shown.metadata[key] = REDACTED
        if self.payload:
            shown.ClearField("payload")
            kind = shown.WhichOneof("data")
            if kind is not None:
                shown.ClearField(kind)
        return shown

    def _hides(self, key: str) -> bool:
        name = key.lower()
        return any(fnmatchcase(name, pattern) for pattern in self.metadata)


NOTHING = Redaction()
"""All of an event may be seen."""
