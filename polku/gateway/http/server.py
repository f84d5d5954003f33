"""The HTTP door: `POST /v1/events` takes events in, `GET /health` says how the pipeline is.

Every answer to `POST /v1/events`, of whatever status, is an `Ack` as JSON. A request is read whole, within limits of
size and time, and then goes the way of a unary gRPC call: what is in flight together travels together.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from polku.aio.eager import start_eagerly
from polku.aio.tasks import TaskSet
from polku.gateway.certificates import HTTP1, Certificates
from polku.gateway.http.answer import Metrics, written
from polku.gateway.http.body import BodyReader
from polku.gateway.http.browser import Pages
from polku.gateway.http.connections import Connections, HttpConnection
from polku.gateway.http.events import Events
from polku.gateway.http.gate import HttpGate
from polku.gateway.http.health import HealthAnswers
from polku.gateway.http.plain import PlainRequests
from polku.gateway.http.state import ServerState
from polku.gateway.http.usual import EVENTS, UsualHead
from polku.gateway.intake import Intake
from polku.gateway.listen import Listener, Queue, context_of, listen
from polku.gateway.shedding import shed, staying
from polku.health import Health
from polku.log import RepeatedLog
from polku.text import named
from polku.usercode import is_ours

if TYPE_CHECKING:
    from polku.gateway.http.unusual import Unusual
    from polku.security.authenticator import Authenticator

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_UNUSUAL = "polku.gateway.http.unusual"
_LEAVE_SECONDS = 30.0  # for clients of a port that is opened again to send something, and learn that they are to go
_LEAVE_LOOK_SECONDS = 0.2


class HttpServer:
    """Serve one intake over HTTP: with a `token` or an `authenticator`, only to clients that say who they are.

    Pages of the web may send where they are of one of the `origins`.
    """

    protocol = "http"

    def __init__(
        self,
        intake: Intake,
        health: Callable[[], Awaitable[Health]],
        token: str | None = None,
        authenticator: Authenticator | None = None,
        origins: Collection[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._intake = intake
        self._metrics = metrics
        self._gate = HttpGate(token, authenticator)
        intake.count_failures(self._gate.failures)
        self._pages = Pages(origins)
        self._bodies = BodyReader(intake.limits)
        self._events = Events(intake, self._gate, self._bodies)
        self._state = ServerState()
        self._plain = PlainRequests(intake, self._gate, self._state)
        self._health = HealthAnswers(health, self._gate, self._state)
        self._open: set[asyncio.Future[None]] = set()  # usual requests without an answer
        self._loading: asyncio.Task[Unusual | None] | None = None
        self._is_stopped = False
        self._server: Listener | None = None
        self._connections: Connections | None = None
        self._tasks = TaskSet("HTTP server")

    @property
    def connections(self) -> int | None:
        """How many connections are open; None where that is not known."""
        return None if self._connections is None else len(self._connections)

    async def start(
        self,
        address: str,
        field: str = "http_addr",
        *,
        shared: bool = False,
        certificates: Certificates | None = None,
        beside: Queue | None = None,
    ) -> str:
        """Open the port and return the bound `host:port`; raises `SettingError` about `field` where it cannot be had.

        A `shared` port may be open in other processes too: the kernel divides the connections among them. With
        `certificates` it speaks TLS alone. `beside` an open port it takes over what comes to that one.
        """
        self._connections = Connections(self._load, self._intake.limits, self._answer_usual, self._plain.take)
        tls = context_of(certificates, HTTP1)
        self._server, bound = await listen(self._connections, field, address, shared=shared, tls=tls, beside=beside)
        return bound

    @property
    def listener(self) -> Listener | None:
        """The open port."""
        return self._server

    async def leave(self, *, queued: bool) -> None:
        """Take no connections any more; end each with its next answer, and after a while those that say nothing.

        With `queued` connections that wait at the port are taken first: nobody else takes them.
        """
        if self._server is not None:
            server, self._server = self._server, None
            server.leave(queued=queued)
        self._state.leaving = True
        ended = time.monotonic() + _LEAVE_SECONDS
        while time.monotonic() < ended and self.connections:  # noqa: ASYNC110 - a look now and then is enough
            await asyncio.sleep(_LEAVE_LOOK_SECONDS)
        await self.stop(0)

    @property
    def staying(self) -> int:
        """How many connections have not been asked to leave."""
        return 0 if self._connections is None else staying(self._connections.open)

    def shed(self, count: int, seconds: float) -> None:
        """Have that many connections end, each with its next answer; they are chosen within some seconds."""
        if self._connections is not None:
            self._tasks.start("connections that leave", shed(self._connections.open, count, seconds))

    async def stop(self, grace: float) -> None:
        """Close the port, give open requests `grace` seconds to end, close the connections."""
        self._state.serving = False
        self._is_stopped = True
        server, self._server = self._server, None
        if server is not None:
            server.close()
        loading, self._loading = self._loading, None
        unusual = None if loading is None else await loading
        await self._tasks.close()
        await self._state.wait_quiet(grace)
        if unusual is not None:
            await unusual.stop()
        if self._connections is not None:
            self._connections.abort()

    async def set_serving(self, serving: bool) -> None:
        """Choose whether `/health` tells load balancers to come."""
        self._state.serving = serving

    def _load(self) -> None:
        """Have what reads all other requests be loaded: in a thread, beside the requests that are served."""
        if self._loading is None and not self._is_stopped:
            self._loading = asyncio.get_running_loop().create_task(self._load_unusual())

    async def _load_unusual(self) -> Unusual | None:
        assert self._connections is not None
        try:
            module = await asyncio.to_thread(importlib.import_module, _UNUSUAL)
            answers = (self._events, self._health, self._pages, self._metrics)
            server = module.Server(
                self._intake, self._gate, self._bodies, *answers, self._state, self._connections.find
            )
            unusual: Unusual = module.Unusual(server)
            await unusual.start()
        except BaseException as error:
            self._loading = None
            self._connections.abandon_unusual()
            if is_ours(error):
                raise
            _REPEATED.exception("unusual", "what reads all but plain requests cannot be loaded: %s", named(error))
            return None
        self._connections.begin_unusual(unusual.make)
        return unusual

    def _answer_usual(self, connection: HttpConnection, head: UsualHead, body: bytes) -> None:
        work = start_eagerly(self._answer(connection, head, body))
        if not work.done():
            self._open.add(work)
            work.add_done_callback(self._open.discard)

    async def _answer(self, connection: HttpConnection, head: UsualHead, body: bytes) -> None:
        self._state.begin()
        try:
            if head.head.path == EVENTS:
                answer = await self._events.post_usual(connection, head, body)
            else:
                answer = await self._health.answer(
                    head.head.path,
                    strict="strict" in head.head.query,
                    authorization=head.authorization,
                    transport=connection.transport,
                )
            closes = head.closes or "Connection" in answer.headers or self._state.closes or connection.is_leaving
            connection.answered(written(answer.status, answer.headers, answer.body, close=closes), close=closes)
        finally:
            self._state.end()
