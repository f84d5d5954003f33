"""Watch over HTTP connections: how many there are, and that none is held open by a client that says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from polku.codes import Code
from polku.gateway.http.deadline import Deadline
from polku.gateway.http.received import HEAD_END, Received, UsualRequest
from polku.gateway.http.refusal import refusal_bytes
from polku.gateway.http.usual import BODY_BYTES, UsualHead, UsualHeads
from polku.gateway.listen import address_of
from polku.gateway.places import Places, connections_within
from polku.limits import Limits
from polku.security.account import Account

_IDLE_SECONDS = 75.0  # between two requests; longer than the 60 s for which proxies usually keep a connection
_MAKE_ROOM_SECONDS = 5.0  # idle for so long, a connection makes room for another one where the port is full
_HEAD_BYTES = 64 * 1024  # of one request, all fields together
_LINGER_SECONDS = 1.0
_TOGETHER = 64  # requests of a connection that are answered together: others have their turn then

Make = Callable[[], asyncio.Protocol]


class Connections:
    """Watch connections. `answer` answers usual requests, with `HttpConnection.answered`.

    Before that `take` may take a request, to answer it with others of the same connection: in one call of `answered`.
    `load` is called when the first other one has come; from `begin_unusual` on these are for other protocols.
    """

    def __init__(
        self,
        load: Callable[[], None],
        limits: Limits,
        answer: Callable[[HttpConnection, UsualHead, bytes], None],
        take: Callable[[HttpConnection, UsualHead, bytes], bool] = lambda connection, head, body: False,
    ) -> None:
        self._load = load
        self._waiting: list[HttpConnection] = []
        self.make: Make | None = None
        self.limits = limits
        self.answer = answer
        self.take = take
        self._held = 0  # bytes of usual requests that have come in part
        self.heads = UsualHeads()
        self._open: dict[asyncio.BaseTransport, HttpConnection] = {}
        self._places = Places(
            "HTTP connections",
            total=connections_within(limits.connections),
            each=limits.address_connections,
            idle_seconds=_MAKE_ROOM_SECONDS,
        )

    def __len__(self) -> int:
        return len(self._places)

    @property
    def open(self) -> list[HttpConnection]:
        """Those that are open."""
        return list(self._open.values())

    def __call__(self) -> HttpConnection:
        """Return the protocol of a new connection."""
        return HttpConnection(self)

    def await_unusual(self, connection: HttpConnection) -> None:
        """Hand a connection over once there is a protocol for it."""
        self._waiting.append(connection)
        self._load()

    def begin_unusual(self, make: Make) -> None:
        """Make the protocols of connections with other requests so from now on."""
        self.make = make
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.hand_over(make)

    def abandon_unusual(self) -> None:
        """End the connections that wait: there is no protocol for them. The next one asks again."""
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.refuse_unusual()

    def admit(self, connection: HttpConnection, transport: asyncio.Transport) -> None:
        """Keep a connection, or end it with a sentence where there are too many."""
        self._open[transport] = connection
        if reason := self._places.enter(connection.address, connection):
            transport.write(refusal_bytes("503 Service Unavailable", Code.UNAVAILABLE, reason, "Retry-After: 1"))
            transport.close()

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """Let go of a connection that has ended."""
        connection = self._open.pop(transport, None)
        if connection is not None:
            self._places.leave(connection.address, connection)

    def find(self, transport: asyncio.BaseTransport | None) -> HttpConnection | None:
        """Return the connection of a transport while it is open."""
        return None if transport is None else self._open.get(transport)

    def has_room(self, usual: Received, more: int) -> bool:
        """Return whether there is room for what has come of usual requests, and for `more` bytes of them."""
        return self._held + len(usual.bytes) + more - usual.counted <= self.limits.open_bytes

    def count(self, usual: Received) -> None:
        """Count what has come of usual requests, and is not answered yet."""
        size = len(usual.bytes)
        self._held += size - usual.counted
        usual.counted = size

    def abort(self) -> None:
        """End all connections."""
        for transport in list(self._open):
            cast("asyncio.Transport", transport).abort()


class HttpConnection(asyncio.Protocol):
    """Read usual requests, and hand everything on to another protocol from the first other one on, within time.

    A head must be complete `limits.read_seconds` after its first byte (the first one: after the connection was made).
    While a request is `busy`, its handler keeps the time.
    """

    def __init__(self, connections: Connections) -> None:
        self._inner: asyncio.Protocol | None = None
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._deadline = Deadline(self._late)
        self._idle = False
        self.address = ""
        self.accounts: set[Account] = set()  # that this connection counts for
        self.idle_since: float | None = None  # since when no request is in the hands of a handler
        self._head_bytes: int | None = 0  # that have come of a head; None: it is complete
        self._head_end = b""
        self._is_refused = False
        self.is_used = False  # a head was complete
        self.is_leaving = False  # it ends with its next answer
        self._usual: Received | None = Received()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self.address = address_of(transport)
        self._connections.admit(self, self._transport)
        self._wait(self._connections.limits.read_seconds, idle=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._stop_waiting()
        self._deadline.close()
        self._leave_usual()
        if self._transport is not None:
            self._connections.forget(self._transport)
        for account in self.accounts:
            account.leave_connection()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._is_refused:
            return
        usual = self._usual
        if usual is None:
            self._pass_on(data)
        elif self._read_usual(usual, data):
            self._connections.count(usual)
        elif self._connections.make is not None:
            self.hand_over(self._connections.make)
        else:
            self._connections.count(usual)
            usual.is_open = True  # what comes meanwhile waits
            self._pause(usual)
            self._connections.await_unusual(self)

    def hand_over(self, make: Make) -> None:
        """Let another protocol read what has come, and all that will."""
        usual, transport = self._usual, self._transport
        if usual is None or transport is None or transport.is_closing():
            return
        data = bytes(usual.bytes)
        self._leave_usual()
        self._inner = make()
        self._inner.connection_made(transport)
        if usual.is_full:
            self._inner.pause_writing()
        if usual.is_paused:
            transport.resume_reading()
        self._pass_on(data)
        if usual.is_ended and not self._inner.eof_received():
            transport.close()

    def refuse_unusual(self) -> None:
        """End it: what would read its request is not there."""
        if self._transport is not None and not self._transport.is_closing():
            reason = "the gateway cannot read this kind of request at the moment; its log says why"
            self._transport.write(refusal_bytes("503 Service Unavailable", Code.UNAVAILABLE, reason, "Retry-After: 1"))
            self._transport.close()

    def _pass_on(self, data: bytes) -> None:
        assert self._inner is not None
        if not data:
            return
        if self._idle and self._head_bytes is not None:
            self._wait(self._connections.limits.read_seconds, idle=False)
        if self._head_bytes is not None and self._is_too_long_a_head(data):
            self._refuse_head()
            return
        self._inner.data_received(data)

    def _read_usual(self, usual: Received, data: bytes) -> bool:
        """Take what has come of usual requests; return whether that is all that it is of."""
        received = usual.bytes
        if usual.is_open or usual.is_full:  # what comes waits, also where there is no room: it is for who answers now
            received += data
            if len(received) > BODY_BYTES or not self._connections.has_room(usual, 0):
                self._pause(usual)
            return True
        if not self._connections.has_room(usual, len(data)):
            received += data
            return False
        if received:
            received += data
        source = received or data
        at, alone, is_usual = self._take_requests(usual, source)
        if source is received:
            del received[:at]
        elif at < len(data):
            received += data[at:] if at else data
        if alone is not None:
            self._connections.answer(self, alone.head, alone.body)
        if usual.is_ended and not (usual.bytes or usual.is_open or usual.together) and self._transport is not None:
            self._transport.close()  # the answers have left while its bytes were read
        return is_usual

    def _take_requests(self, usual: Received, source: bytes | bytearray) -> tuple[int, UsualRequest | None, bool]:
        """Take the requests that have come whole: those that are answered together, or one that is answered alone.

        Returns where the rest begins, the one that is answered alone, and whether the rest is of usual requests.
        """
        connections, at, end = self._connections, 0, len(source)
        while at < end:
            request, behind, is_usual = usual.cut(source, at, connections.heads)
            if request is None:
                if not is_usual and usual.together:
                    is_usual = usual.is_open = True  # those before it are answered first
                elif is_usual and not usual.together:
                    self._await_rest(usual)
                return at, None, is_usual
            usual.together += 1
            if usual.together == 1:
                self.begin()
            if connections.take(self, request.head, request.body):  # those that wait may leave with it, or be answered
                at = behind
                if usual.is_open or request.head.closes or usual.together == _TOGETHER:
                    usual.is_open = True
                    return at, None, True
                continue
            usual.together -= 1
            usual.is_open = True
            return (at, None, True) if usual.together else (behind, request, True)
        return at, None, True

    def _await_rest(self, usual: Received) -> None:
        if not usual.has_head:
            if self._idle:
                self._wait(self._connections.limits.read_seconds, idle=False)
        elif not usual.is_late:
            usual.is_late = True
            self._wait(self._connections.limits.read_seconds, idle=False)

    def _pause(self, usual: Received) -> None:
        if not usual.is_paused and self._transport is not None:
            self._transport.pause_reading()
            usual.is_paused = True

    def _leave_usual(self) -> None:
        if self._usual is not None:
            self._usual.bytes = bytearray()
            self._connections.count(self._usual)
            self._usual = None

    def await_answer(self) -> None:
        """Read no other request before what is read has its answer."""
        if self._usual is not None:
            self._usual.is_open = True

    def answered(self, response: bytes, *, close: bool) -> None:
        """Answer a usual request, or those that were taken together, and read the next."""
        usual, transport = self._usual, self._transport
        if usual is None or transport is None or transport.is_closing():
            return
        usual.is_open, usual.together = False, 0
        transport.write(response)
        if close or (usual.is_ended and not usual.bytes):
            transport.close()
            return
        self.end(is_read=True)
        self._read_on(usual, transport)

    def _read_on(self, usual: Received, transport: asyncio.Transport) -> None:
        if usual.is_open or usual.is_full:
            return
        if usual.is_paused:
            usual.is_paused = False
            transport.resume_reading()
        if usual.bytes:
            asyncio.get_running_loop().call_soon(self.data_received, b"")

    def _is_too_long_a_head(self, data: bytes) -> bool:
        """Count the bytes of a head that has not come to its end."""
        assert self._head_bytes is not None
        if HEAD_END in self._head_end + data:
            self._head_bytes = None
            return False
        self._head_end = (self._head_end + data)[-len(HEAD_END) + 1 :]
        self._head_bytes += len(data)
        return self._head_bytes > _HEAD_BYTES

    def _refuse_head(self) -> None:
        """Answer, and drop what still comes for a while: a client that sends on could not read it else."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._is_refused = True
        reason = f"head: it has more than {_HEAD_BYTES} bytes; send shorter fields"
        transport.write(refusal_bytes("431 Request Header Fields Too Large", Code.MALFORMED, reason))
        if transport.can_write_eof():
            transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.close)
        else:
            transport.close()

    def eof_received(self) -> bool | None:  # noqa: D102
        if self._usual is not None and (self._usual.is_open or self._usual.together):
            self._usual.is_ended = True
            return True  # its answer has yet to leave
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:  # noqa: D102
        if self._usual is not None:
            self._usual.is_full = True
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:  # noqa: D102
        if self._usual is not None and self._transport is not None:
            self._usual.is_full = False
            self._read_on(self._usual, self._transport)
        if self._inner is not None:
            self._inner.resume_writing()

    @property
    def transport(self) -> asyncio.Transport | None:
        """What the connection is made of."""
        return self._transport

    def begin(self) -> None:
        """Note that a request's head is complete."""
        self.is_used = True
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._idle = False
        self.idle_since = None
        self._deadline.clear()

    def end(self, *, is_read: bool) -> None:
        """Note that a request has its answer; what comes of one that was not read is no head."""
        self._head_bytes, self._head_end = 0 if is_read else None, b""
        self._wait(_IDLE_SECONDS, idle=True)

    def leave(self, why: str) -> None:
        """End with the next answer, which says `Connection: close`; HTTP/1.1 has no place for the reason."""
        self.is_leaving = True

    def make_room(self, reason: str) -> None:
        """Close: another client needs the place."""
        if self._transport is not None:
            self._transport.close()

    def _wait(self, seconds: float, *, idle: bool) -> None:
        self._idle = idle
        self.idle_since = now = time.monotonic()
        self._deadline.set(seconds, now)

    def _late(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():  # the client does not even read its answers
            self._transport.abort()
            return
        is_body = self._usual is not None and self._usual.is_late
        if is_body or not self._idle:
            what, advice = ("body", "send smaller ones, or faster") if is_body else ("head", "send it faster")
            reason = f"{what}: not complete after {self._connections.limits.read_seconds} s; {advice}"
            self._transport.write(refusal_bytes("408 Request Timeout", Code.MALFORMED, reason))
        self._transport.close()
