"""Flow control of what one peer sends on a connection (RFC 9113, section 5.2)."""

from __future__ import annotations

from polku.http2.frames import ErrorCode, PeerError


class ReceiveWindow:
    """Count the bytes of DATA that came, and those that were consumed: credit is given for these."""

    __slots__ = ("_size", "_uncredited", "_unread")

    def __init__(self, size: int) -> None:
        self._size = size
        self._uncredited = 0  # received, and not yet credited to the peer
        self._unread = 0  # those of them that are not consumed

    @property
    def room(self) -> int:
        """The bytes that the peer may send now."""
        return self._size - self._uncredited

    def received(self, size: int) -> None:
        """Count what came; raises `PeerError` where the peer had no credit for it."""
        self._uncredited += size
        self._unread += size
        if self._uncredited > self._size:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")

    def consumed(self, size: int) -> None:
        """Count what is done with."""
        self._unread -= size

    def credit(self) -> int:
        """Return the credit that is due now: 0, or a quarter of the window and more."""
        credit = self._uncredited - self._unread
        if credit < self._size >> 2:
            return 0
        self._uncredited -= credit
        return credit
