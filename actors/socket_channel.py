"""The short way from one actor to another of the same node: a Unix socket beside Ray's calls.

A call of Ray costs sender and receiver 0.8 ms of CPU together whatever is in it. One event by itself took 13 ms of CPU
through four actors by calls, and 2.4 ms over sockets (in turns, on a slow day, `polku bench --unary --in-flight 1`).
Only Ray decides whether an actor is dead: where a connection is lost, or an answer is late, the sender asks Ray whether
the receiver has died, and pushes again under the same identity; where it lives, by calls. Actors of one node share its
fate; those of other nodes are reached by calls even on one machine, as processes of a lost node may go on for a while.
`POLKU_HOPS=ray` leaves sockets out.

A socket lies in a folder that only this user may look into, and is gone as soon as its one connection stands. Frames in
both directions: a number (of the request that is answered), the sizes of head and payload, head, payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from polku.aio.eager import start_eagerly
from polku.aio.peer import uid_of
from polku.errors import UnavailableError
from polku.log import RepeatedLog
from polku.socket_folder import SocketFolder
from polku.text import named

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_FRAME = struct.Struct("<III")
_UNUSED_SECONDS = 10.0

Serve = Callable[[str, tuple[Any, ...], bytes], Awaitable[bytes]]
"""Do what a method is asked for with its arguments and a payload, and return the answer."""


class LostError(Exception):
    """Say that the connection is lost: what became of the requests that were in flight is unknown."""


class _Frames(asyncio.Protocol):
    """Send frames, and cut what comes in into frames."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._buffer = bytearray()
        self._needed = _FRAME.size  # bytes until the next frame may be whole

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on every frame that is whole."""
        self._buffer += data
        while len(self._buffer) >= self._needed:
            number, head, payload = _FRAME.unpack_from(self._buffer)
            self._needed = _FRAME.size + head + payload
            if len(self._buffer) < self._needed:
                return
            with memoryview(self._buffer) as view:
                parts = bytes(view[_FRAME.size : _FRAME.size + head]), bytes(view[_FRAME.size + head : self._needed])
            del self._buffer[: self._needed]
            self._needed = _FRAME.size
            self.received(number, *parts)

    def send(self, number: int, head: bytes, payload: bytes) -> None:
        """Send a frame, unless the connection is lost."""
        if not self._transport.is_closing():
            self._transport.writelines((_FRAME.pack(number, len(head), len(payload)), head, payload))

    def received(self, number: int, head: bytes, payload: bytes) -> None:
        """Take a frame."""
        raise NotImplementedError


class SocketChannel(_Frames):
    """The side that asks."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what is in flight."""
        self.is_open = False
        under_way, self._open = self._open, {}
        for answer in under_way.values():
            if not answer.done():
                answer.set_exception(LostError(f"the connection was lost: {error or 'the other side closed it'}"))

    def ask(self, method: str, arguments: tuple[Any, ...], payload: bytes = b"") -> asyncio.Future[bytes]:
        """Return the future of the answer; it fails with `LostError`, or with what the other side raised."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if not self.is_open:
            answer.set_exception(LostError("the connection was lost"))
            return answer
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._open[number] = answer
        self.send(number, pickle.dumps((method, arguments)), payload)
        return answer

    def received(self, number: int, head: bytes, payload: bytes) -> None:
        """Take an answer; its head is what was raised, if anything was."""
        answer = self._open.pop(number, None)
        if answer is None or answer.done():
            return
        if head:
            answer.set_exception(pickle.loads(head))
        else:
            answer.set_result(payload)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


class _Serving(_Frames):
    """The side that answers."""

    def __init__(self, serve: Serve, on_connection: Callable[[], None]) -> None:
        super().__init__()
        self._serve = serve
        self._on_connection = on_connection
        self._working: set[asyncio.Future[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a process of this user: what is sent is unpickled."""
        super().connection_made(transport)
        if uid_of(transport) not in (None, os.geteuid()):
            _REPEATED.error("stranger", "a process of another user has connected to a socket between actors")
            transport.abort()  # type: ignore[attr-defined]
            return
        self._on_connection()

    def received(self, number: int, head: bytes, payload: bytes) -> None:
        """Begin to work on a request; many are worked on at once."""
        working = start_eagerly(self._answer(number, head, payload))
        if not working.done():
            self._working.add(working)
            working.add_done_callback(self._working.discard)

    async def _answer(self, number: int, head: bytes, payload: bytes) -> None:
        try:
            method, arguments = pickle.loads(head)
            answer, fault = await self._serve(method, arguments, payload), b""
        except Exception as error:
            answer, fault = b"", _pickled(error)
        self.send(number, fault, answer)


async def listen(serve: Serve) -> str:
    """Wait for one connection, for some seconds at most; return the path of its socket, empty where none can be had."""
    loop = asyncio.get_running_loop()

    def close() -> None:
        timer.cancel()
        server.close()
        mine.close()

    folder: SocketFolder | None = None
    try:
        folder = mine = SocketFolder("hop")
        server = await loop.create_unix_server(lambda: _Serving(serve, close), folder.path / "hop")
    except OSError as error:  # no room, or a path that is too long for a socket
        if folder is not None:
            folder.close()
        _REPEATED.warning("socket", "batches come by calls of Ray: a socket cannot be had: %s", error)
        return ""
    timer = loop.call_later(_UNUSED_SECONDS, close)
    return str(mine.path / "hop")


def this_node() -> str:
    """Return the node that this process belongs to."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


async def reach(path: str) -> SocketChannel | None:
    """Connect to what listens; None where nothing does, or sockets are not wanted."""
    if not path or os.environ.get("POLKU_HOPS", "").strip().lower() == "ray":
        return None
    with contextlib.suppress(OSError):
        _, shortcut = await asyncio.get_running_loop().create_unix_connection(SocketChannel, path)
        return shortcut
    return None


def _pickled(error: Exception) -> bytes:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(UnavailableError(named(error)))
    return data
