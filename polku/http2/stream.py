"""One stream of a connection (RFC 9113, section 5.1): open, half-closed on either side, or gone.

               HEADERS                      END_STREAM received
        idle ───────────▶ open ───────────────────────────────▶ half-closed (remote)
                           │ END_STREAM sent                             │ END_STREAM sent
                           ▼                                             ▼
                 half-closed (local) ──── END_STREAM received ────▶    closed
        RST_STREAM, sent or received, closes it from every state.

A stream is in `Connection.streams` while it is not closed.
"""

from __future__ import annotations

from collections import deque
from typing import Any


class Stream:
    """What a connection knows about one stream; `app` belongs to whoever answers it."""

    __slots__ = (
        "app",
        "consumed",
        "head",
        "length",
        "local_ended",
        "number",
        "pending",
        "pending_bytes",
        "remote_ended",
        "reset_code",
        "touched",
        "unread",
        "window",
    )

    def __init__(self, number: int, head: Any, window: int, now: float) -> None:
        self.number = number
        self.head = head
        self.app: Any = None
        self.window = window  # bytes of DATA that we may send
        self.unread = 0  # bytes of DATA that were received and not yet consumed
        self.consumed = 0  # bytes that were consumed and not yet credited to the peer
        self.length = -1  # bytes that are still to come by content-length; -1: it was not sent
        self.pending: deque[Any] = deque()  # what waits for a window: bytes of DATA, or `Trailer` at the end
        self.pending_bytes = 0
        self.remote_ended = self.local_ended = False
        self.reset_code: int | None = None  # of the peer's RST_STREAM, if that is how it ended
        self.touched = now  # when the peer last sent something for it
