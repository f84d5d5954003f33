"""What has come of usual requests on one connection that is not answered yet."""

from __future__ import annotations

from msgspec import Struct

from polku.gateway.http.usual import HEAD_BYTES, UsualHead, UsualHeads, may_be_usual

HEAD_END = b"\r\n\r\n"


class UsualRequest(Struct, frozen=True):
    """A request that has come whole."""

    head: UsualHead
    body: bytes


class Received:
    """Cut requests off what has come."""

    __slots__ = (
        "_head",
        "_searched",
        "_start",
        "bytes",
        "counted",
        "is_ended",
        "is_full",
        "is_late",
        "is_open",
        "is_paused",
        "together",
    )

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.counted = 0  # bytes of it
        self._head: UsualHead | None = None  # of a request whose body has come in part
        self._searched = 0  # bytes in which no head ends
        self._start = 0  # of that body
        self.is_late = False  # the body has a time to be complete
        self.is_open = False  # a request has no answer yet, and no other one is read before it has
        self.together = 0  # requests that have none, and that are answered with others, in their order
        self.is_full = False  # the client does not read its answers
        self.is_paused = False
        self.is_ended = False  # the client sends no more

    def cut(self, source: bytes | bytearray, at: int, heads: UsualHeads) -> tuple[UsualRequest | None, int, bool]:
        """Return the request that begins at a place, and where the next does; None where it has not come whole.

        False, last, where what begins there is no usual request.
        """
        head = self._head
        if head is None:
            end = source.find(HEAD_END, at + self._searched)
            if end < 0 or end - at > HEAD_BYTES:
                self._searched = max(0, len(source) - at - len(HEAD_END) + 1)
                return None, at, end < 0 and may_be_usual(source[at:] if at else source)
            start = end + len(HEAD_END)
            self._head = head = heads.read(bytes(source[at:start]))
            if head is None:
                self._searched = end - at
                return None, at, False
            self._start = start - at
        start = at + self._start
        stop = start + head.length
        if stop > len(source):
            return None, at, True
        self._head, self._searched, self.is_late = None, 0, False
        return UsualRequest(head, bytes(source[start:stop])), stop, True

    @property
    def has_head(self) -> bool:
        """Whether a head has come of which the body has not."""
        return self._head is not None
