"""What a record of text becomes: an event with the text as its payload, or bytes for an ingestor."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from polku.codes import Code
from polku.contracts import Pulled
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.files.lines import Line


class Decode(StrEnum):
    """Say what a record is."""

    TEXT = "text"
    """The payload of an event."""
    INGESTOR = "ingestor"
    """Bytes for the ingestor of the source."""
    JSON = "json"
    """JSON, as the JsonIngestor reads it."""
    CLOUDEVENTS = "cloudevents"
    """A CloudEvent in JSON."""


class BadText(StrEnum):
    """Say what becomes of text that is not UTF-8."""

    REPLACE = "replace"
    """U+FFFD stands in place of what cannot be read."""
    KEEP = "keep"
    """The payload has the bytes as they are."""
    REFUSE = "refuse"
    """The record is a dead letter."""


class TooLong(StrEnum):
    """Say what becomes of a line that is too long."""

    REFUSE = "refuse"
    """The record is a dead letter, without its text."""
    CUT = "cut"
    """Its beginning goes on, with metadata `cut`."""


READERS = {Decode.JSON: "json", Decode.CLOUDEVENTS: "cloudevents"}
"""The source whose ingestor reads each kind."""


class Form(NamedTuple):
    """How records are made."""

    decode: Decode
    event_type: str
    bad_text: BadText
    too_long: TooLong
    limit: int

    def record(self, line: Line, place: str, record_id: str, metadata: Mapping[str, str]) -> Pulled:
        """Return a line as a record; `place` says for people which file it stands in."""
        place = f"{place}, byte {line.start}"
        if line.cut:
            if self.too_long is TooLong.REFUSE:
                reason = f"a line is longer than {self.limit} bytes; raise max_line_bytes, or say too_long='cut'"
                error = RecordError(reason, code=Code.TOO_LARGE, offset=line.start)
                return Pulled(error, place, record_id, metadata=metadata)
            metadata = {**metadata, "cut": "true"}
        return Pulled(self._content(line), place, record_id, metadata=metadata)

    def _content(self, line: Line) -> Event | bytes | RecordError:
        content = line.content
        if self.decode is not Decode.TEXT:
            return content
        if self.bad_text is not BadText.KEEP:
            try:
                content.decode()
            except UnicodeDecodeError as error:
                if self.bad_text is BadText.REFUSE:
                    reason = f"byte {line.start + error.start} is not UTF-8 ({error.reason})"
                    return RecordError(reason, offset=line.start + error.start)
                content = content.decode("utf-8", "replace").encode()
        return Event(event_type=self.event_type, payload=content)
