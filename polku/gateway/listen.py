"""Open a port for a server of this process, plain or with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec import Struct

from polku.aio.forks import let_go_in_forks
from polku.aio.peer import uid_of
from polku.aio.tasks import TaskSet
from polku.errors import SettingError
from polku.gateway.addresses import cannot_open
from polku.gateway.certificates import Certificates
from polku.gateway.places import Places
from polku.log import RepeatedLog

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_BACKLOG = 1024
_HANDSHAKE_SECONDS = 10.0
_HANDSHAKES, _ADDRESS_HANDSHAKES = 2_000, 500  # in progress at once: in all, and from one address
_SHUTDOWN_SECONDS = 5.0  # for the peer's part in closing a TLS connection
_PAUSE_SECONDS = 1.0  # where no connection can be taken

Factory = Callable[[], asyncio.BaseProtocol]
Context = Callable[[], ssl.SSLContext]


class Listener(Protocol):
    """An open port."""

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The sockets that listen."""

    def close(self) -> None:
        """Close the port; connections that are open stay."""

    def leave(self, *, queued: bool) -> None:
        """Take no connections any more: those that are being made stay too, and with `queued` those that wait."""


class Queue(Protocol):
    """Sockets with connections that wait to be taken."""

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The sockets that listen."""


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the host that a connection comes from, without its port; of a Unix socket the user (`uid:1000`)."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return str(name[0])
    uid = uid_of(transport)
    return "" if uid is None else f"uid:{uid}"


def context_of(certificates: Certificates | None, protocol: str) -> Context | None:
    """Return what gives each new connection its TLS context; None where the port is plain."""
    return None if certificates is None else partial(certificates.context, protocol)


async def listen(
    factory: Factory,
    field: str,
    address: str,
    *,
    shared: bool,
    tls: Context | None = None,
    beside: Queue | None = None,
) -> tuple[Listener, str]:
    """Open `host:port` or `unix:path`; return the port and the bound address.

    A `shared` port may be open in other processes too: the kernel divides the connections among them. `[::]` takes
    IPv4 too. With `tls` each connection begins with a handshake. `beside` a port that is open on this address both take
    the connections of one queue, so that none is refused when that one is closed. Raises `SettingError` about the
    setting `field` where the address cannot be had.
    """
    with _explained(field, address):
        taken = [] if beside is None else [_copy_of(sock) for sock in beside.sockets]
        listener: TlsListener | PlainListener
        if tls is not None:
            listener = TlsListener(taken or await _bind(address, shared=shared), factory, tls, field)
        else:
            listener = await _listen_plain(factory, address, taken, shared=shared)
        let_go_in_forks(listener, descriptors_of)
        return listener, _bound(address, listener.sockets[0])


def descriptors_of(port: Queue) -> list[int]:
    """Return the descriptors of the sockets that listen."""
    return [sock.fileno() for sock in port.sockets]


class QueuedSockets(Struct, frozen=True):
    """A port that is open, at which connections wait until somebody listens beside it; `address` has its real port."""

    sockets: Sequence[socket.socket]
    address: str

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.sockets:
            sock.close()


async def reserve(field: str, address: str, *, shared: bool) -> QueuedSockets:
    """Open `host:port` or `unix:path` without taking connections; raises `SettingError` as `listen` does."""
    with _explained(field, address):
        sockets = await _bind(address, shared=shared)
        return QueuedSockets(sockets, _bound(address, sockets[0]))


@contextlib.contextmanager
def _explained(field: str, address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_open(field, address, error) from None
    except (ValueError, OverflowError) as error:
        reason = f"cannot be opened ({error}); write HOST:PORT, with a free port from 0 (any) to 65535"
        raise SettingError(field, address, reason) from None


class Handshake:
    """A handshake in progress, which never makes room: its time is short."""

    idle_since: float | None = None
    is_used = False

    def make_room(self, reason: str) -> None:
        """Is not asked for."""


class PlainListener:
    """Take connections without TLS."""

    def __init__(self, servers: Sequence[asyncio.Server], factory: Factory) -> None:
        self._servers = servers
        self._factory = factory
        self._late = TaskSet("connections that waited")

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The sockets that listen."""
        return [sock for server in self._servers for sock in server.sockets]

    def close(self) -> None:
        """Close the port; connections that are open stay."""
        for server in self._servers:
            server.close()

    def leave(self, *, queued: bool) -> None:
        """Take no connections any more; with `queued` those that wait are taken first: a closed socket resets them."""
        copies = [_copy_of(sock) for sock in self.sockets] if queued else []
        self.close()
        for copy in copies:
            for connection, _ in _waiting(copy):
                self._late.start("connection", self._take(connection))
            copy.close()

    async def _take(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, connection)
        except OSError:  # that one client is gone already
            connection.close()


class TlsListener:
    """Take connections, each with the context that is in use when it comes.

    A server of asyncio has one context for its life; this is why certificates can change here while it is open.
    """

    def __init__(self, sockets: Sequence[socket.socket], factory: Factory, context: Context, field: str) -> None:
        self._factory = factory
        self._context = context
        self._field = field
        self._accepting = TaskSet(f"{field} port")
        self._handshakes = TaskSet(f"{field} handshakes")
        self._places = Places(
            "TLS handshakes", total=_HANDSHAKES, each=_ADDRESS_HANDSHAKES, idle_seconds=_HANDSHAKE_SECONDS
        )
        for sock in sockets:
            self._accepting.keep_alive(f"port {sock.fileno()}", partial(self._accept, sock))
        self._sockets = sockets

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The sockets that listen."""
        return self._sockets

    @property
    def handshakes(self) -> int:
        """How many connections shake hands now."""
        return len(self._places)

    def close(self) -> None:
        """Close the port, and what still shakes hands; connections that are open stay."""
        self.leave(queued=False)
        self._handshakes.cancel("handshake")

    def leave(self, *, queued: bool) -> None:
        """Take no connections any more: what shakes hands comes to its end, with `queued` also what waits to."""
        sockets, self._sockets = self._sockets, ()
        for sock in sockets:
            self._accepting.cancel(f"port {sock.fileno()}")
            for connection in _waiting(sock) if queued else ():
                self._shake_hands(*connection)
        # Not before the tasks have ended: they hold the descriptors in the loop's selector.
        for sock in sockets:
            asyncio.get_running_loop().call_soon(sock.close)

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(sock)
            except ConnectionAbortedError:
                continue  # that one client is gone already
            except OSError as error:  # no descriptors, or no memory
                _REPEATED.error(error.errno, "%s: no connection can be taken: %s", self._field, error.strerror)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            self._shake_hands(connection, peer)

    def _shake_hands(self, connection: socket.socket, peer: object) -> None:
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        shaking = Handshake()
        if self._places.enter(address, shaking):
            connection.close()  # an answer would need a handshake
            return
        done = self._handshakes.start("handshake", self._begin(connection))
        done.add_done_callback(partial(self._ended, address, shaking, connection))

    def _ended(self, address: str, shaking: Handshake, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._places.leave(address, shaking)
        if task.cancelled() or task.exception() is not None:
            sock.close()

    async def _begin(self, sock: socket.socket) -> None:
        """Shake hands; a client that fails costs one line of the log."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory,
                sock,
                ssl=self._context(),
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except (OSError, TimeoutError) as error:  # `ssl.SSLError` is an OSError
            sock.close()
            reason = getattr(error, "reason", None) or error.__class__.__name__
            _REPEATED.info(reason, "%s: a client's TLS handshake failed: %s", self._field, error or reason)


async def _listen_plain(
    factory: Factory, address: str, taken: Sequence[socket.socket], *, shared: bool
) -> PlainListener:
    loop = asyncio.get_running_loop()
    path = _unix_path(address)
    if path is not None:
        sockets = taken or [_bind_unix(path)]
        return PlainListener([await loop.create_unix_server(factory, **_unix(sock)) for sock in sockets], factory)
    host, port = _host_and_port(address)
    if host == "::" or taken:
        sockets = taken or await _bind(address, shared=shared)
        servers = [await loop.create_server(factory, sock=sock, backlog=_BACKLOG) for sock in sockets]
        return PlainListener(servers, factory)
    server = await loop.create_server(factory, host, port, reuse_address=True, reuse_port=shared, backlog=_BACKLOG)
    return PlainListener([server], factory)


def _unix(sock: socket.socket) -> dict[str, Any]:
    """Return the options of a server on a Unix socket, whose path stays where another one listens there too."""
    options: dict[str, Any] = {"sock": sock, "backlog": _BACKLOG}
    if sys.version_info >= (3, 13) and isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        options["cleanup_socket"] = False
    return options


def _waiting(sock: socket.socket) -> Iterator[tuple[socket.socket, object]]:
    """Take the connections that wait at a socket, with their peers."""
    while True:
        try:
            connection, peer = sock.accept()
        except OSError:  # none does, or there is no room for one
            return
        connection.setblocking(False)
        yield connection, peer


def _copy_of(sock: socket.socket) -> socket.socket:
    copy = socket.socket(fileno=os.dup(sock.fileno()))
    copy.setblocking(False)
    return copy


async def _bind(address: str, *, shared: bool) -> list[socket.socket]:
    """Return sockets that listen, one for each address of the host."""
    path = _unix_path(address)
    if path is not None:
        return [_bind_unix(path)]
    host, port = _host_and_port(address)
    if host == "::":
        dual = {"family": socket.AF_INET6, "dualstack_ipv6": True}
        sockets = [socket.create_server((host, port), backlog=_BACKLOG, reuse_port=shared, **dual)]  # type: ignore[arg-type]
    else:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets = []
        with contextlib.ExitStack() as opened:
            for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found):
                sock = socket.create_server(place, family=family, backlog=_BACKLOG, reuse_port=shared)
                opened.callback(sock.close)
                sockets.append(sock)
            opened.pop_all()
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def _bind_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)  # of an earlier process, as asyncio does
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _unix_path(address: str) -> str | None:
    return address.removeprefix("unix:").removeprefix("//") if address.startswith("unix:") else None


def _host_and_port(address: str) -> tuple[str, int]:
    written, _, port = address.rpartition(":")
    if int(port) not in range(65_536):  # uvloop would take what is left of it
        raise OverflowError(f"{port} is no port")
    return written.strip("[]"), int(port)


def _bound(address: str, sock: socket.socket) -> str:
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{sock.getsockname()[1]}"
