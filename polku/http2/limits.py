"""What one peer may cost."""

from __future__ import annotations

from msgspec import Struct


class ConnectionLimits(Struct, frozen=True):
    """The limits of one connection; sizes are bytes, times seconds.

    Where a limit is passed, the answer names it: RST_STREAM where one stream is at fault, GOAWAY where the peer is.
    """

    frame: int = 1 << 20
    """Largest frame (SETTINGS_MAX_FRAME_SIZE); only DATA is as large."""
    header_list: int = 16 << 10
    """Decoded header list (SETTINGS_MAX_HEADER_LIST_SIZE), 32 bytes a field added (RFC 9113, section 6.5.2)."""
    header_block: int = 16 << 10
    """Encoded header block, over all its frames."""
    header_table: int = 4096
    """Dynamic table of the peer's encoder (SETTINGS_HEADER_TABLE_SIZE)."""
    streams: int = 1024
    """Open streams (SETTINGS_MAX_CONCURRENT_STREAMS)."""
    stream_window: int = 8 << 20
    """Bytes received and not yet consumed in one stream. A core takes some 120 MB/s (events of 1 kB), so this holds no
    client up whose round trip takes less than 65 ms; smaller ones cost clients far away, larger ones memory."""
    connection_window: int = 32 << 20
    """The same in all streams together; more of either is a flow control error of the peer."""
    unfinished: int = 32 << 20
    """Bytes of messages that have come in part, in all streams together; whoever reads messages counts them."""
    address_unfinished: int = 64 << 20
    port_unfinished: int = 256 << 20
    """The same of all connections of one address, and of all connections to one port."""
    unsent: int = 32 << 20
    """Bytes of answers that wait because the peer does not read them or gives no window."""
    control_frames: int = 1000
    """Answers to PING, SETTINGS and faulty streams that wait to be written: a peer that asks on and does not read."""
    resets: int = 500
    """Streams that the peer may reset, or make us reset, beyond those that come to their end (rapid reset)."""
    empty_frames: int = 1000
    """Frames in a row that bring nothing: empty DATA, PING, SETTINGS, PRIORITY, GOAWAY, unknown ones, WINDOW_UPDATE of
    less than 64 bytes."""
    empty_frames_second: int = 10
    """Of them each second that do not count, so that a client may ping for as long as it likes."""
    preface_seconds: float = 10.0
    """Until the preface and SETTINGS have come (after a TLS handshake)."""
    header_seconds: float = 10.0
    """From the first frame of a header block to its last."""
    message_seconds: float = 60.0
    """Without a byte for a stream whose peer has not finished the message that it began."""
    whole_message_seconds: float = 300.0
    """From the first byte of a message to its last, as far as the peer may send it."""
    keepalive_seconds: float = 60.0
    """Without a byte until a PING asks the peer for one."""
    keepalive_timeout_seconds: float = 20.0
    """From that PING until the connection is closed: the peer is gone, though nobody has closed its end."""
    linger_seconds: float = 1.0
    """Of a connection that is being closed: what still comes is dropped, so that the peer can read what it is told."""
    close_seconds: float = 10.0
    """From the last write of a connection that is being closed until it is cut off."""
    idle_seconds: float = 0.0
    """Without any stream until the connection is closed; 0: never."""
    age_seconds: float = 0.0
    """Until a connection is asked to end, give or take a tenth: not all come back at once; 0: never."""
    age_grace_seconds: float = 30.0
    """From then until it is closed, however its streams are."""
