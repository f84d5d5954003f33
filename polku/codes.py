"""The closed set of codes that an `AckError` can carry."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Say in one word why an event or record was not accepted.

    The first group is the sender's to mend, the second is worth sending again, the third is the pipeline
    owner's to mend.
    """

    MALFORMED = "MALFORMED"
    """The bytes are not a valid protobuf message."""
    NO_PAYLOAD = "NO_PAYLOAD"
    """The message carries neither events nor raw bytes."""
    UNKNOWN_SOURCE = "UNKNOWN_SOURCE"
    """Raw bytes came from a source that no ingestor serves."""
    INVALID_RECORD = "INVALID_RECORD"
    """The ingestor could not turn a record into an event."""
    INVALID_EVENT = "INVALID_EVENT"
    """The event was read, but a field of it breaks a rule (a Validator's, for instance)."""
    DUPLICATE_ID = "DUPLICATE_ID"
    """Two events of one message carry the same id; the first was looked at, and taken or refused."""
    TOO_LARGE = "TOO_LARGE"
    """The message or the event is over the size limit."""
    TOO_MANY_EVENTS = "TOO_MANY_EVENTS"
    """The message holds more events than the limit."""
    METADATA_LIMIT = "METADATA_LIMIT"
    """An event's metadata has too many entries, or too long ones."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """The bearer token is missing, wrong, or not valid any more; and no certificate says who the client is."""
    PERMISSION_DENIED = "PERMISSION_DENIED"
    """The client is known, and has no right to this source, cluster, route or metadata."""
    UNSUPPORTED = "UNSUPPORTED"
    """There is no such path, method, content type or content encoding (HTTP)."""

    BUFFER_FULL = "BUFFER_FULL"
    """The buffer is full and its overflow rule drops what is newest."""
    RATE_LIMITED = "RATE_LIMITED"
    """The client has sent more than the rate that it has a right to."""
    UNAVAILABLE = "UNAVAILABLE"
    """A part of the pipeline does not answer; whether it took the event is unknown."""
    DRAINING = "DRAINING"
    """The pipeline is stopping and takes nothing new."""

    MIDDLEWARE_ERROR = "MIDDLEWARE_ERROR"
    """User code raised or returned something wrong; the event is a dead letter."""
    MIDDLEWARE_TIMEOUT = "MIDDLEWARE_TIMEOUT"
    """User code did not return in time; the event is a dead letter."""
    POISON = "POISON"
    """Every process that worked on the event died of it; the event is a dead letter."""
    INGESTOR_ERROR = "INGESTOR_ERROR"
    """The ingestor itself failed on the message."""
    UNROUTABLE = "UNROUTABLE"
    """`route_to` names an emitter that the pipeline does not have; the event is a dead letter."""
    UNDELIVERED = "UNDELIVERED"
    """At the `delivered` level: a destination refused the event for good, or it was dropped by rule."""
