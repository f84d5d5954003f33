"""What the gateway takes: every limit on the input, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from polku.errors import PlanError

_CALL_BYTES = 40 * 1024
_LEAST_CALLS = 100  # what HTTP/2 recommends that every connection may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bound one message, one event and one client; each limit has its code and its message for the sender.

    `message_bytes` is the size of one gRPC or HTTP message (4 MiB is what gRPC clients expect), `batch_events` the
    events in it; `id_bytes`, `source_bytes`, `event_type_bytes` and `cluster_bytes` bound those texts, in UTF-8, also
    where the message names them for all of its events, and `format_bytes` the hint about raw bytes; `routes` are the
    entries of `route_to`, of `route_bytes` each;
    `metadata_entries`, `metadata_key_bytes` and `metadata_value_bytes` bound one event's metadata; `streams` are
    concurrent StreamEvents calls, `address_streams` those from one address; `calls` are the calls that one gRPC
    connection may have open: further ones wait at the client (fewer where `open_bytes` has no room for that
    many of 40 KiB each); `stream_batches` are the batches of one stream that may be in flight before the gateway stops
    reading from it; `open_bytes` are the bytes of all messages together that may be in flight: over it streams are
    not read and unary calls are refused; `connections` are open HTTP connections, `grpc_connections` those to the
    gRPC port (either takes three eighths of the process's descriptors at most), and `address_connections` those
    that one address may have to a port; where a port is full, the one that is idle longest makes room;
    `read_seconds` is the time that an HTTP client may take to send its headers, and again for its body; after
    `connection_age_seconds` a gRPC connection is asked to end, so that clients find gateways that were added since
    (0: never).
    """

    message_bytes: int = 4 * 1024 * 1024
    batch_events: int = 10_000
    id_bytes: int = 256
    source_bytes: int = 256
    event_type_bytes: int = 256
    cluster_bytes: int = 256
    format_bytes: int = 256
    routes: int = 128
    route_bytes: int = 256
    metadata_entries: int = 128
    metadata_key_bytes: int = 256
    metadata_value_bytes: int = 16 * 1024
    streams: int = 1_000
    address_streams: int = 750
    calls: int = 1_000
    stream_batches: int = 32
    open_bytes: int = 64 * 1024 * 1024
    connections: int = 1_000
    grpc_connections: int = 10_000
    address_connections: int = 1_000
    read_seconds: int = 30
    connection_age_seconds: int = 0

    safe_event_bytes: int = field(init=False, repr=False, compare=False)
    """The largest event that cannot break a limit on its texts, so that nobody needs to look at them."""

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self) if each.init):
            value = getattr(self, name)
            least = 0 if name == "connection_age_seconds" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise PlanError(f"{name}={value!r} must be a whole number of at least {least}", where="Limits")
        texts = (self.id_bytes, self.source_bytes, self.event_type_bytes, self.cluster_bytes, self.route_bytes)
        # On the wire an entry of the metadata takes five bytes at least (two tags, two lengths, and a key that tells it
        # from the others), and one of `route_to` two.
        entries = (2 * self.routes, 5 * self.metadata_entries, self.metadata_key_bytes, self.metadata_value_bytes)
        object.__setattr__(self, "safe_event_bytes", min(*texts, *entries))

    @property
    def connection_calls(self) -> int:
        """The calls that one connection may have open: enough for a stream too many to come and be told so.

        Calls of health and reflection count too. An open call takes memory beside its message, 22 KB inline and 34 KB
        in an actor, which `open_bytes` must have room for.
        """
        return min(max(self.calls, self.streams + 10), max(_LEAST_CALLS, self.open_bytes // _CALL_BYTES))
